"""The copies of a program's tensors, tied as their originals are."""

from __future__ import annotations

import torch
from torch import nn


class Copies:
    """Copies of tensors for branches; what is one tensor stays one within a branch."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, str], torch.Tensor] = {}

    def of(self, value: torch.Tensor, branch: str) -> torch.Tensor:
        """A branch's copy of a tensor, made when it is first asked for."""
        identity = (_identity(value), branch)
        if identity not in self._made:
            self._made[identity] = _copied(value)
        return self._made[identity]


def _identity(value: torch.Tensor) -> object:
    """What tied tensors share, and no others; parameters of a loaded program are tied by their memory alone."""
    return (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype) if value.numel() else id(value)


def _copied(value: torch.Tensor) -> torch.Tensor:
    copied = value.detach().clone().requires_grad_(value.requires_grad)
    return nn.Parameter(copied, value.requires_grad) if isinstance(value, nn.Parameter) else copied
