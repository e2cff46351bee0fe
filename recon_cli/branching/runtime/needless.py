"""Calls whose results no task needs: they are learned in one run, and left out of the next ones that go the same way.

The network's code computes every task's output in every pass, though only one is kept. What the other heads give is
known to be needless once a run has shown what the kept outputs come from. From then on such a call gives a stand-in of
the right shape without a value. Should a call that is needed come across a stand-in, the run is begun anew, and nothing
is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map


class NeededError(Exception):
    """A call that is needed came across a stand-in, or the run went another way than the one that was learned from."""


@dataclass(frozen=True)
class _Likeness:
    """What a stand-in has of a tensor."""

    shape: torch.Size
    value: torch.Tensor
    requires_grad: bool

    def make(self) -> torch.Tensor:
        made = self.value.expand(self.shape)
        return made.requires_grad_() if self.requires_grad else made


@dataclass(frozen=True)
class _Argument:
    """The place of an argument that a call gives back."""

    position: int


@dataclass(frozen=True)
class NeedlessCall:
    """A call that may be left out.

    :ivar shapes: those of the tensors among its arguments.
    :ivar result: what it gives, with something in place of each tensor.
    """

    func: object
    shapes: tuple[torch.Size, ...]
    result: Any

    @property
    def gives_back(self) -> bool:
        """Whether one of its arguments is, or is in, what it gives."""
        return any(isinstance(leaf, _Argument) for leaf in tree_leaves(self.result))

    @classmethod
    def of(cls, func: object, tensors: Sequence[torch.Tensor], result: Any) -> NeedlessCall:
        """Describe a call."""
        positions = {id(tensor): at for at, tensor in enumerate(tensors)}

        def described(leaf: object) -> object:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            if id(leaf) in positions:
                return _Argument(positions[id(leaf)])
            # Values that nobody computed are seen at once wherever they should appear.
            nothing = float("nan") if leaf.is_floating_point() or leaf.is_complex() else 0
            value = torch.full((), nothing, dtype=leaf.dtype, device=leaf.device)
            return _Likeness(leaf.shape, value, leaf.requires_grad)

        return cls(func, tuple(tensor.shape for tensor in tensors), tree_map(described, result))

    def stand_in(self, func: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Any:
        """What takes the place of the result.

        :raises NeededError: if the call is another one.
        """
        if func != self.func or tuple(tensor.shape for tensor in tensors) != self.shapes:
            raise NeededError

        def made(leaf: object) -> object:
            if isinstance(leaf, _Likeness):
                return leaf.make()
            return tensors[leaf.position] if isinstance(leaf, _Argument) else leaf

        return tree_map(made, self.result)
