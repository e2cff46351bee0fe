"""Which kind of checkpoint or program a file is, told by its content and not by its name; nothing in it is run."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from recon_cli.errors import ReconError, quoted

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_OLD_TORCH = b"\x80\x02\x8a\x0a"

Program = Literal["torchscript", "exported"]
"""A kind of file that holds a whole network, as the key of the config that names one."""

PROGRAMS: Mapping[Program, str] = {"torchscript": "TorchScript file", "exported": "exported program"}
"""What messages call such files."""

_CALLED = {
    "torchscript": "a TorchScript file",
    "exported": "an exported program",
    "torch": "a file of weights that `torch.save` wrote",
    "safetensors": "a file of weights",
}


def sniff_format(path: Path) -> Literal["safetensors", "torch", "torchscript", "exported"]:
    """Tell the kind of a checkpoint file.

    :raises ReconError: if the file is missing, empty, a folder, or of no such kind.
    """
    head = _read_head(path, "checkpoint")
    if head.startswith(_ZIP):
        # What is wrong with an archive is said by its reader.
        return _kind_of_archive(_names_in(path) or ()) or "torch"
    if head.startswith(_OLD_TORCH):
        return "torch"
    if _begins_as_safetensors(head):
        return "safetensors"
    if head.startswith(_PICKLE):
        return "torch"
    if path.suffix == ".safetensors":
        return "safetensors"
    raise ReconError(
        f"{quoted(path)} is neither a safetensors file nor one that `torch.save`, `torch.jit.save` or"
        " `torch.export.save` wrote",
        "convert it to one of these; all are read whatever the file's name is",
    )


def check_is_stored(path: Path) -> None:
    """Check that a checkpoint is there and no pipe or device, from which nothing can be read at an offset.

    :raises ReconError: naming it.
    """
    if not path.is_dir():
        _read_head(path, "checkpoint")


def check_program(path: Path, kind: Program) -> None:
    """Check that a file is a program of a kind, by the names of what lies in its archive.

    :raises ReconError: if it is missing, or saying what it is instead.
    """
    head = _read_head(path, PROGRAMS[kind])
    found: str | None = None
    if head.startswith(_ZIP):
        names = _names_in(path)
        if names is None:
            raise ReconError(
                f"the {PROGRAMS[kind]} {quoted(path)} is damaged: its archive cannot be read", "copy or write it anew"
            )
        found = _kind_of_archive(names)
    if _begins_as_safetensors(head):
        found = "safetensors"
    elif head.startswith(_PICKLE):
        found = "torch"
    if found == kind:
        return
    if found is None:
        raise ReconError(
            f"{quoted(path)} is not {_CALLED[kind]}",
            "`torch.jit.save` writes one" if kind == "torchscript" else "`torch.export.save` writes one",
        )
    is_program = found in PROGRAMS
    raise ReconError(
        f"{quoted(path)} is {_CALLED[found]}, not {_CALLED[kind]}",
        f"name it under `model.{found}`" if is_program else "name it under `model.checkpoint`, beside a `model.target`",
    )


def _names_in(path: Path) -> list[str] | None:
    """The names in an archive; None if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    # A damaged directory makes zipfile fail in several ways.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None


def _kind_of_archive(names: Iterable[str]) -> Literal["torch", "torchscript", "exported"] | None:
    """What an archive with such names is."""
    names = set(names)
    if "serialized_exported_program.json" in names:
        return "exported"
    # Everything in a later archive lies in one folder, whose name is arbitrary.
    names = {name.partition("/")[2] for name in names}
    if any(name.startswith("code/") for name in names):
        return "torchscript"
    if {"archive_format", "models/model.json"} <= names:
        return "exported"
    return "torch" if "data.pkl" in names else None


def guess_format(path: Path) -> Literal["safetensors", "torch"] | None:
    """The kind of checkpoint that a file begins as; None if it is of neither kind or cannot be read."""
    head = _beginning(path)
    if _begins_as_safetensors(head):
        return "safetensors"
    return "torch" if head.startswith((_ZIP, _PICKLE)) else None


def is_json(path: Path) -> bool:
    """Whether a file begins as a JSON document does; False if it cannot be read."""
    head = _beginning(path)
    return head.lstrip().startswith(b"{") and not _begins_as_safetensors(head)


def _beginning(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    # Opening a pipe would wait for its writer.
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""


def _read_head(path: Path, what: str) -> bytes:
    """The first bytes of a file.

    :param what: what messages call the file.
    """
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise ReconError(f"the {what} {quoted(path)} is not a regular file, so it cannot be read")
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise ReconError(f"there is no {what} {quoted(path)}") from None
    except IsADirectoryError:
        raise ReconError(f"{quoted(path)} is a folder; a file was expected") from None
    except OSError as error:
        raise ReconError(f"cannot read the {what} {quoted(path)}: {error.strerror}") from None
    except ValueError as error:
        raise ReconError(f"{quoted(path)} is no name for a file: {error}") from None
    if not head:
        raise ReconError(f"the {what} {quoted(path)} is empty")
    return head


def _begins_as_safetensors(head: bytes) -> bool:
    # The header's length fits in four of its eight bytes, and a `{` follows it.
    return head[4:9] == b"\0\0\0\0{"
