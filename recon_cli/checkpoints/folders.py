"""The checkpoint in a folder, as `save_pretrained` of Hugging Face and others leave one there."""

from __future__ import annotations

from pathlib import Path

from recon_cli.checkpoints.sharded_source import INDEX_SUFFIX
from recon_cli.errors import ReconError, listed, quoted

FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights of a folder are called where they are one file."""


def checkpoint_in(folder: Path) -> Path:
    """The index of shards or the file of weights that a folder holds.

    :raises ReconError: if there is none, or more than one.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ReconError(f"cannot read the folder {quoted(folder)}: {error.strerror}") from None
    found = [name for name in names if name in FILES or name.endswith(INDEX_SUFFIX)]
    if not found:
        raise ReconError(
            f"the folder {quoted(folder)} holds no checkpoint: no index of shards, {listed(FILES)} or `.metadata`",
            "name the file of the weights itself",
        )
    if len(found) > 1:
        raise ReconError(
            f"the folder {quoted(folder)} holds several checkpoints: {listed(found)}", "name the one that is meant"
        )
    return folder / found[0]
