"""Opening a checkpoint of whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from recon_cli.checkpoints.safetensors_source import SafetensorsSource
from recon_cli.checkpoints.sharded_source import ShardedSource, is_index
from recon_cli.checkpoints.sniffing import sniff_format
from recon_cli.checkpoints.tensors import CheckpointSource


def open_checkpoint(path: Path) -> CheckpointSource:
    """Open a checkpoint for reading.

    :raises ReconError: if it is missing, broken, or of no kind that is read.
    """
    return ShardedSource(path, _open_file) if is_index(path) else _open_file(path)


def _open_file(path: Path) -> CheckpointSource:
    if sniff_format(path) == "safetensors":
        return SafetensorsSource(path)
    from recon_cli.checkpoints.torch_source import TorchSource

    return TorchSource(path)
