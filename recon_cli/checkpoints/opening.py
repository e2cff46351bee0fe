"""Opening a checkpoint of whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from recon_cli.checkpoints.distributed.source import DistributedSource, is_distributed
from recon_cli.checkpoints.folders import checkpoint_in
from recon_cli.checkpoints.programs.exported import ExportedSource
from recon_cli.checkpoints.programs.torchscript import TorchScriptSource
from recon_cli.checkpoints.safetensors_source import SafetensorsSource
from recon_cli.checkpoints.sharded_source import ShardedSource, is_index
from recon_cli.checkpoints.sniffing import sniff_format
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.torch_files.source import TorchSource
from recon_cli.errors import ReconError, quoted


def open_checkpoint(path: Path, key: str | None = None) -> CheckpointSource:
    """Open a checkpoint for reading.

    :param path: a file, an index of shards, or a folder that holds one checkpoint.
    :param key: the path of the weights in a torch file or distributed checkpoint that holds more, such as `model` or
        `ema.shadow`.
    :raises ReconError: if it is missing, broken, or of no kind that is read.
    """
    if path.is_dir():
        if is_distributed(path):
            return DistributedSource(path, key)
        path = checkpoint_in(path)
    if is_index(path):
        return ShardedSource(path, lambda shard: _open_file(shard, key))
    source = _open_file(path, key)
    source.paths = (path,)
    return source


def _open_file(path: Path, key: str | None) -> CheckpointSource:
    kind = sniff_format(path)
    if kind == "torch":
        return TorchSource(path, key)
    if key is not None:
        raise ReconError(
            f"{quoted(path)} holds one set of weights, so there is nothing under {quoted(key)}", "leave --key out"
        )
    if kind == "torchscript":
        return TorchScriptSource(path)
    return ExportedSource(path) if kind == "exported" else SafetensorsSource(path)
