"""Which kind of checkpoint a file is, told by its first bytes and not by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recon_cli.errors import ReconError, quoted

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_OLD_TORCH = b"\x80\x02\x8a\x0a"


def sniff_format(path: Path) -> Literal["safetensors", "torch"]:
    """Tell the kind of a checkpoint file.

    :raises ReconError: if the file is missing, empty, a folder, or of neither kind.
    """
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise ReconError(f"{quoted(path)} is not a regular file, so a checkpoint cannot be read from it")
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise ReconError(f"there is no checkpoint {quoted(path)}") from None
    except IsADirectoryError:
        raise ReconError(f"{quoted(path)} is a folder; a checkpoint file was expected") from None
    except OSError as error:
        raise ReconError(f"cannot read the checkpoint {quoted(path)}: {error.strerror}") from None
    except ValueError as error:
        raise ReconError(f"{quoted(path)} is no name for a file: {error}") from None
    if not head:
        raise ReconError(f"the checkpoint {quoted(path)} is empty")
    if head.startswith((_ZIP, _OLD_TORCH)):
        return "torch"
    if _begins_as_safetensors(head):
        return "safetensors"
    if head.startswith(_PICKLE):
        return "torch"
    if path.suffix == ".safetensors":
        return "safetensors"
    raise ReconError(
        f"{quoted(path)} is neither a safetensors file nor one that `torch.save` wrote",
        "convert it to one of these; both are read whatever the file's name is",
    )


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors files do; False if it cannot be read."""
    # Opening a pipe would wait for its writer.
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _begins_as_safetensors(file.read(9))
    except OSError:
        return False


def _begins_as_safetensors(head: bytes) -> bool:
    # The header's length fits in four of its eight bytes, and a `{` follows it.
    return head[4:9] == b"\0\0\0\0{"
