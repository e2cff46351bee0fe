"""What tells one checkpoint from another, whatever its kind."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts.digests import digest_bytes, digest_file
from recon_cli.checkpoints.distributed.source import is_distributed
from recon_cli.checkpoints.folders import checkpoint_in
from recon_cli.checkpoints.sharded_source import is_index, read_index, shard_path
from recon_cli.errors import ReconError, quoted


def checkpoint_digest(path: Path) -> str:
    """The digest of a checkpoint: that of its file, or one of the names and contents of all its files.

    :param path: a file, an index of shards, or a folder that holds one checkpoint.
    :raises ReconError: if the folder holds none, or a file cannot be read.
    """
    if path.is_dir() and not is_distributed(path):
        path = checkpoint_in(path)
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
        elif is_index(path):
            files = [path, *(shard_path(path, name) for name in sorted({*read_index(path)[0].values()}))]
        else:
            return digest_file(path)
        return digest_bytes("\n".join(f"{file.name} {digest_file(file)}" for file in files).encode())
    except OSError as error:
        raise ReconError(f"cannot read {quoted(error.filename or path)}: {error.strerror}") from None
