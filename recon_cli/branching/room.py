"""How much is written, and whether there is room for it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from recon_cli.artifacts.manifest import PlannedOutput
from recon_cli.errors import ReconError, quoted


def output_record(file_bytes: int, manifest_bytes: int, output: Path | None) -> PlannedOutput:
    """What is written, and how much room its file system has.

    :param output: the branched file, if it is named; its folder exists.
    """
    free = None if output is None else _free_bytes(output.parent)
    return PlannedOutput(bytes=file_bytes, manifest_bytes=manifest_bytes, free_bytes=free)


def check_room(planned: PlannedOutput, output: Path) -> None:
    """Refuse an output that its file system has no room for.

    A file that is replaced makes no room: it stays until the new one is complete.
    """
    if planned.free_bytes is not None and planned.total > planned.free_bytes:
        raise _too_little(f"{quoted(output)} and its manifest take {planned.total:,} bytes", planned.free_bytes, output)


def check_room_to_work(needed: int, output: Path) -> None:
    """Refuse an output whose file system has no room for what lies there while it is made.

    :param needed: the bytes of that, at the least.
    """
    free = _free_bytes(output.parent)
    if free is not None and needed > free:
        raise _too_little(f"{quoted(output)} takes {needed:,} bytes while it is made", free, output)


def _free_bytes(folder: Path) -> int | None:
    # A file system that does not say how much is free cannot be asked.
    with contextlib.suppress(OSError):
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize
    return None


def _too_little(what: str, free: int, output: Path) -> ReconError:
    return ReconError(
        f"{what}, but only {free:,} are free in {quoted(output.parent)}", "make room, or name an output on another disk"
    )
