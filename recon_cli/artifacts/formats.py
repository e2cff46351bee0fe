"""The kinds of checkpoints that are read."""

from __future__ import annotations

from typing import Literal, TypeAlias

CheckpointFormat: TypeAlias = Literal["safetensors", "torch", "distributed", "torchscript", "exported"]
"""A safetensors file, what `torch.save` wrote, a folder of `torch.distributed.checkpoint`, a TorchScript archive, or an
exported program (`.pt2`)."""
