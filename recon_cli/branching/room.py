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
    free = None
    if output is not None:
        # A file system that does not say how much is free cannot be asked.
        with contextlib.suppress(OSError):
            found = os.statvfs(output.parent)
            free = found.f_bavail * found.f_frsize
    return PlannedOutput(bytes=file_bytes, manifest_bytes=manifest_bytes, free_bytes=free)


def check_room(planned: PlannedOutput, output: Path) -> None:
    """Refuse an output that its file system has no room for.

    A file that is replaced makes no room: it stays until the new one is complete.
    """
    if planned.free_bytes is not None and planned.total > planned.free_bytes:
        raise ReconError(
            f"{quoted(output)} and its manifest take {planned.total:,} bytes, but only {planned.free_bytes:,} are free "
            f"in {quoted(output.parent)}",
            "make room, or name an output on another disk",
        )
