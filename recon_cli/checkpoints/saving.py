"""Writing a state dict as safetensors, without numpy and with the same bytes for the same values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recon_cli.artifacts.publish import check_output, publishing
from recon_cli.checkpoints.safetensors_writer import write_safetensors

if TYPE_CHECKING:
    import torch


def save_state_dict(state: Mapping[str, torch.Tensor], path: Path, *, overwrite: bool = False) -> None:
    """Write a state dict as safetensors; tied tensors are written under each of their names.

    :raises ReconError: if the file exists and `overwrite` is off, or the format has no such tensor.
    """
    from recon_cli.checkpoints.memory_source import TensorSource

    check_output(path, overwrite=overwrite)
    with TensorSource(state, "the state dict") as source, publishing([path], overwrite=overwrite) as (file,):
        write_safetensors(file.descriptor, source, {key: (key,) for key in state}, lambda _: {"format": "pt"})
