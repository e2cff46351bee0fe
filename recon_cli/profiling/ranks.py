"""The processes that train one network together, each on batches of its own (data parallel)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

_Anything = TypeVar("_Anything")


@dataclass(frozen=True)
class Ranks:
    """The ranks of PyTorch's default process group; a process by itself is the only one.

    :ivar size: how many there are.
    :ivar rank: which of them this one is.
    """

    size: int = 1
    rank: int = 0

    @classmethod
    def current(cls) -> Ranks:
        """The group that this process belongs to now."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_world_size(), distributed.get_rank())
        return cls()

    def sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Add up each of these tensors over the ranks, in place; all ranks give the same number of the same shapes."""
        if self.size == 1:
            return
        pending = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in pending:
            work.wait()

    def agree(self, number: int, device: torch.device) -> bool:
        """Whether all ranks give the same number.

        :param device: one that the group can send from.
        """
        if self.size == 1:
            return True
        bounds = torch.tensor([number, -number], device=device)
        distributed.all_reduce(bounds, distributed.ReduceOp.MAX)
        highest, lowest = bounds.tolist()
        return bool(highest == -lowest)

    def share(self, value: _Anything) -> list[_Anything]:
        """What each of the ranks gives here, in their order."""
        if self.size == 1:
            return [value]
        values: list[_Anything] = [value] * self.size
        distributed.all_gather_object(values, value)
        return values
