"""The operations of a forward pass and the memory between them: which operation's results another one reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from recon_cli.dataflow.aten import aliases_of, statistics_of
from recon_cli.dataflow.contraction import SeenOperation
from recon_cli.dataflow.flops import flops_of
from recon_cli.errors import ReconError, quoted

_SPARSE = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}
"""What a tensor of each sparse layout consists of."""


class Operations:
    """The operations that were seen, in the order in which they ran.

    An operation depends on the last ones that wrote to the memory that it reads, by whatever name or view. One that
    only looks at memory in another way is none.

    :param state: the network's state dict, with its own tensors; a tensor that it holds twice has its first name.
    :param buffers: its buffers by all their names.
    """

    def __init__(self, state: Mapping[str, Any], buffers: Mapping[str, torch.Tensor]) -> None:
        self.seen: list[SeenOperation] = []
        self._call: int | None = None
        self._writers: dict[StorageWeakRef, set[int]] = {}
        self._state: dict[StorageWeakRef, list[tuple[str, _Place]]] = {}
        self._buffers = {name: _places(buffer) for name, buffer in buffers.items() if name in state}
        self._first_names: dict[str, str] = {}
        first: dict[frozenset[_Place], str] = {}
        for name, value in state.items():
            places = _places(value) if isinstance(value, torch.Tensor) else frozenset()
            self._first_names[name] = first.setdefault(places, name) if places else name
            if self._first_names[name] == name:
                for place in places:
                    self._state.setdefault(place.storage, []).append((name, place))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Take what runs in the block as one operation: a call of a function, which runs as a whole."""
        self._call = len(self.seen)
        try:
            yield
        finally:
            self._call = None

    def add(
        self, operation: OpOverload | HigherOrderOperator, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Take up an operation that has run; in the block of `together`, as a part of the call."""
        moved = written = frozenset[_Place]()
        if isinstance(operation, OpOverload):
            moved = _all_places(statistics_of(operation, args, kwargs))
            written = _all_places(value for value, writes in aliases_of(operation, args, kwargs) if writes) - moved
        read = _all_places(tree_leaves((args, kwargs)))
        held = {place.storage for place in read}
        made = {place for place in _all_places(tree_leaves(result)) if place.storage not in held}
        if not (moved or written or made):
            return
        if self._call is None or self._call == len(self.seen):
            self.seen.append(SeenOperation())
        number = len(self.seen) - 1
        seen = self.seen[number]
        seen.flops += flops_of(operation, args, kwargs, result)
        # No result depends on statistics that its operation moves.
        seen.inputs |= self._last_writers(read - moved) - {number}
        seen.reads.update(dict.fromkeys(self._named(read)))
        seen.moves.update(dict.fromkeys(name for name in self._named(written | moved) if name in self._buffers))
        for place in written | made:
            self._writers[place.storage] = {number}
        for place in moved:
            self._writers.setdefault(place.storage, set()).add(number)

    def replace(self, name: str, buffer: torch.Tensor) -> None:
        """Take up what a buffer of the state dict is when all has run; it may be another tensor than before."""
        if name in self._buffers and self._buffers[name] != _places(buffer):
            for writer in self.writers([buffer]):
                self.seen[writer].moves[self._first_names[name]] = None

    def writers(self, tensors: Iterable[torch.Tensor]) -> set[int]:
        """The last operations that wrote to some tensors."""
        return self._last_writers(_all_places(tensors))

    def _last_writers(self, places: Iterable[_Place]) -> set[int]:
        return {writer for place in places for writer in self._writers.get(place.storage, ())}

    def _named(self, places: Iterable[_Place]) -> list[str]:
        """The tensors of the state dict that lie in some memory."""
        found: set[str] = set()
        for place in places:
            for name, own in self._state.get(place.storage, ()):
                if own.begin < place.end and place.begin < own.end:
                    found.add(name)
        return sorted(found)


class _Place(NamedTuple):
    """A stretch of memory: of a storage, whose number is not used again as long as this is there, from byte to byte."""

    storage: StorageWeakRef
    begin: int
    end: int


def _all_places(values: Iterable[Any]) -> frozenset[_Place]:
    return frozenset(place for value in values if isinstance(value, torch.Tensor) for place in _places(value))


def _places(tensor: torch.Tensor) -> frozenset[_Place]:
    """Where a tensor lies.

    :raises ReconError: if that cannot be told.
    """
    if tensor.layout in _SPARSE:
        return _all_places(getattr(tensor, part)() for part in _SPARSE[tensor.layout])
    if tensor.layout is not torch.strided:
        raise ReconError(f"the network computes with tensors of the layout {quoted(tensor.layout)}")
    if hasattr(tensor, "__tensor_flatten__"):
        return _all_places(getattr(tensor, part) for part in tensor.__tensor_flatten__()[0])
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    reach = sum((size - 1) * step for size, step in steps) + 1 if tensor.numel() else 0
    begin, size = int(tensor.storage_offset()), tensor.element_size()
    storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # torch has no type for it
    return frozenset([_Place(storage, begin * size, (begin + reach) * size)])
