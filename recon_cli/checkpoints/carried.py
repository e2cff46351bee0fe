"""The text that a checkpoint carries besides its tensors, read without them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from recon_cli.artifacts.document import MAX_BYTES
from recon_cli.checkpoints.archives.reading import Archive
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.programs.exported import EXTRA_FILES
from recon_cli.checkpoints.safetensors_source import SafetensorsSource
from recon_cli.checkpoints.sharded_source import is_index, read_index
from recon_cli.checkpoints.sniffing import guess_format
from recon_cli.checkpoints.torch_files.content import MANIFEST

_ZIP = b"PK"


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one that a text could be carried in: a checkpoint, or the index of one."""
    return is_index(path) or guess_format(path) is not None


def carried_text(path: Path, key: str) -> bytes | None:
    """The text that a checkpoint of any kind carries; None if it carries none of that name.

    :param key: what it is called in the metadata of safetensors files and indices.
    :raises ReconError: if the file is damaged.
    """
    if is_index(path):
        text = read_index(path)[1].get(key)
    elif guess_format(path) == "safetensors":
        with SafetensorsSource(path) as source:
            text = source.metadata.get(key)
    else:
        return _member(path)
    return None if text is None else text.encode()


def _member(path: Path) -> bytes | None:
    with closing(InputFile(path)) as file:
        if file.read(0, min(2, file.size)) != _ZIP:
            return None
        archive = Archive(file)
        found = next((name for name in (MANIFEST, EXTRA_FILES + MANIFEST) if name in archive), None)
        return None if found is None else archive.read(found, MAX_BYTES)
