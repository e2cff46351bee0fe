"""What is in a file of any kind that Recon reads: a checkpoint, or a document that one of its commands wrote."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.inspection import InspectedFile, Inspection
from recon_cli.checkpoints.sharded_source import is_index
from recon_cli.checkpoints.sniffing import is_json
from recon_cli.errors import ReconError, quoted
from recon_cli.inspection.checkpoints import inspect_checkpoint
from recon_cli.inspection.documents import inspect_document


def inspect_file(path: Path, key: str | None = None) -> Inspection:
    """Say what is in a file.

    :param path: a checkpoint or a document; `-` is a document on standard input.
    :param key: the path of the weights in a torch file that holds more.
    :raises ReconError: if it cannot be read at all, or holds nothing under the key. What can be read, but would be
        refused by other commands, is no error.
    """
    if path != STANDARD_STREAM and (is_index(path) or not is_json(path)):
        files, checkpoint = inspect_checkpoint(path, key)
        return Inspection(name=path.name, bytes=_total(files), files=tuple(files), checkpoint=checkpoint, document=None)
    if key is not None:
        raise ReconError(f"{quoted(path)} is a document, so there is nothing under {quoted(key)}", "leave --key out")
    size, document = inspect_document(path)
    name = "standard input" if path == STANDARD_STREAM else path.name
    file = InspectedFile(name=name, bytes=size, problem=None)
    return Inspection(name=name, bytes=size, files=(file,), checkpoint=None, document=document)


def _total(files: list[InspectedFile]) -> int:
    return sum(file.bytes or 0 for file in files)
