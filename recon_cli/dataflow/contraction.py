"""From all operations of a forward pass to the few that decide how far streams part, and what that costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from recon_cli.artifacts.dataflow import Dataflow, Operation


@dataclass
class SeenOperation:
    """An operation as it was seen; as in :class:`Operation`, but not yet what it is part of.

    :ivar reads: names, in order, as keys; as are those that it moves.
    :ivar tasks: a bit for each task.
    """

    flops: int = 0
    inputs: set[int] = field(default_factory=set)
    reads: dict[str, None] = field(default_factory=dict)
    moves: dict[str, None] = field(default_factory=dict)
    tasks: int = 0


def contracted(tasks: Sequence[str], seen: Iterable[SeenOperation]) -> Dataflow:
    """A data flow with the same operation counts for every split as the operations that were seen, and far fewer.

    How the streams part at an operation depends on the tensors alone that it, or anything that it depends on, reads. So
    operations of the same tasks for which these are the same always run together, and become one. What costs, reads and
    moves nothing disappears.
    """
    return _Contraction(tasks).of(seen)


@dataclass
class _Group:
    """Operations that always run together.

    :ivar origin: a bit for every tensor that they or what they depend on read.
    """

    origin: int
    tasks: int
    inputs: list[int]
    flops: int = 0
    reads: dict[str, None] = field(default_factory=dict)
    moves: dict[str, None] = field(default_factory=dict)


class _Contraction:
    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tuple(tasks)
        self._bits: dict[str, int] = {}
        self._groups: list[_Group] = []
        self._places: dict[tuple[int, int], int] = {}

    def of(self, seen: Iterable[SeenOperation]) -> Dataflow:
        # For every operation seen, the groups on which what reads its results depends.
        sources: list[list[int]] = []
        for operation in seen:
            inputs = self._foremost({place for index in operation.inputs for place in sources[index]})
            sources.append(inputs)
            if operation.flops or operation.reads or operation.moves:
                sources[-1] = [self._add(operation, inputs)]
        return Dataflow(tasks=self._tasks, operations=tuple(self._record(group) for group in self._groups))

    def _add(self, operation: SeenOperation, inputs: list[int]) -> int:
        origin = 0
        for index in inputs:
            origin |= self._groups[index].origin
        for key in operation.reads:
            origin |= self._bits.setdefault(key, 1 << len(self._bits))
        place = self._places.setdefault((origin, operation.tasks), len(self._groups))
        if place == len(self._groups):
            self._groups.append(_Group(origin, operation.tasks, inputs))
        group = self._groups[place]
        group.flops += operation.flops
        group.reads.update(operation.reads)
        group.moves.update(operation.moves)
        return place

    def _foremost(self, places: Collection[int]) -> list[int]:
        """Without those at which the streams never part further than at another one."""
        kept: list[int] = []
        for place in sorted(places, key=lambda place: (-self._groups[place].origin.bit_count(), place)):
            origin = self._groups[place].origin
            if origin and not any(origin | self._groups[other].origin == self._groups[other].origin for other in kept):
                kept.append(place)
        return sorted(kept)

    def _record(self, group: _Group) -> Operation:
        return Operation(
            flops=group.flops,
            inputs=tuple(group.inputs),
            reads=tuple(group.reads),
            moves=tuple(group.moves),
            tasks=tuple(task for task in range(len(self._tasks)) if group.tasks >> task & 1),
        )
