"""The calls of one task's pass that no other pass shares: which of them the task's output comes from.

The network's code computes every task's output in every pass, and only the pass's own task is kept. A BatchNorm in
another task's head has seen features of this pass by then; what it wrote into its running statistics is taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.utils.weak import TensorWeakRef


class OwnCalls:
    """What each call of a pass was computed from, and what it wrote into the network's buffers.

    :param buffers: the buffers that the pass may write to; none if nothing is taken back.
    """

    def __init__(self, buffers: Iterable[torch.Tensor] = ()) -> None:
        self._buffers = {id(buffer): buffer for buffer in buffers}
        self._made_by: dict[int, tuple[TensorWeakRef, int]] = {}
        self._writers: dict[int, int] = {}
        self._parents: list[frozenset[int]] = []
        self._before: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self._is_complete = True

    def made(self, tensor: torch.Tensor) -> bool:
        """Whether a call of this pass gave the tensor."""
        return self._maker(tensor) is not None

    def found(self, tensor: torch.Tensor) -> None:
        """Note a tensor that no call gave: what it comes from is not known, if it was computed."""
        if tensor.grad_fn is not None:
            self._is_complete = False

    def state_before(self, tensors: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The buffers among a call's arguments with their values, if it computes from other tensors as well."""
        buffers = [tensor for tensor in tensors if id(tensor) in self._buffers]
        if len(buffers) == len(tensors):
            return []
        return [(buffer, buffer.detach().clone()) for buffer in buffers]

    def add(
        self,
        arguments: Sequence[torch.Tensor],
        results: Iterable[torch.Tensor],
        written: Iterable[tuple[torch.Tensor, int]],
        before: Iterable[tuple[torch.Tensor, torch.Tensor]] = (),
        *,
        silent: bool = False,
    ) -> None:
        """Note a call.

        :param written: the tensors that it is known to have written to, with the memory of each.
        :param before: what `state_before` gave.
        :param silent: whether it may have written to all of these as well.
        """
        number = len(self._parents)
        parents = {self._maker(tensor) for tensor in arguments}
        if self._writers:
            parents |= {self._writers.get(memory_of(tensor)) for tensor in arguments}
        self._parents.append(frozenset(parent for parent in parents if parent is not None))
        for tensor in results:
            self._made_by[id(tensor)] = (TensorWeakRef(tensor), number)
        changed = set()
        for tensor, memory in written:
            changed.add(id(tensor))
            self._writers[memory] = number
        self._before += [(number, buffer, value) for buffer, value in before if silent or id(buffer) in changed]

    def take_back(self, output: object) -> None:
        """Undo what was written into buffers by calls that the task's output does not come from.

        :param output: the task's part of what the network returned.
        """
        if not self._before or not self._is_complete:
            return
        tensors = tensors_in(output)
        needed = {self._maker(tensor) for tensor in tensors} | {self._writers.get(memory_of(t)) for t in tensors}
        pending = [number for number in needed if number is not None]
        if not pending:
            return
        live: set[int] = set()
        while pending:
            number = pending.pop()
            if number not in live:
                live.add(number)
                pending.extend(self._parents[number])
        used = {id(buffer) for number, buffer, _ in self._before if number in live}
        for _, buffer, value in reversed(self._before):
            if id(buffer) not in used:
                # As little counted as what it undoes: batch normalisation keeps its buffers for the backward pass.
                buffer.data.copy_(value)

    def _maker(self, tensor: torch.Tensor) -> int | None:
        found = self._made_by.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None


def tensors_in(*values: object) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    found: list[torch.Tensor] = []
    _collect(values, found)
    return found


def _collect(values: Iterable[object], found: list[torch.Tensor]) -> None:
    # Every call of the network passes through here, so it is no generator.
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            if value:
                _collect(value, found)
        elif isinstance(value, dict) and value:
            _collect(value.values(), found)


def memory_of(tensor: torch.Tensor) -> int:
    """What tells whether two tensors lie in the same memory."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        # Sparse tensors and the like have no storage.
        return -id(tensor)
