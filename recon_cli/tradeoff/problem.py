"""What can be split, what conflict that removes, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.branching.streams import Streams
from recon_cli.grouping.best import Matrix, conflict_within
from recon_cli.grouping.partitions import Partition, all_together
from recon_cli.layers.names import layer_of


@dataclass(frozen=True)
class Item:
    """What is split as a whole, such as a layer: every copy of it serves a group of tasks.

    :ivar names: of its layers, with all their aliases.
    :ivar conflicts: how much each two tasks conflict on it.
    :ivar size: parameters, or bytes, of one copy.
    :ivar tasks: positions of the tasks that reach it.
    """

    names: frozenset[str]
    conflicts: Matrix
    size: int
    tasks: tuple[int, ...]

    @cached_property
    def conflict(self) -> float:
        """What there is of it."""
        return conflict_within(self.conflicts, all_together(len(self.conflicts)))

    def removed(self, partition: Partition) -> float:
        """How much of the conflict is gone if the tasks are parted so."""
        return self.conflict - conflict_within(self.conflicts, partition)

    def added(self, partition: Partition) -> int:
        """What the further copies add in parameters, or bytes."""
        return self.size * (len({partition[task] for task in self.tasks}) - 1)


@dataclass(frozen=True)
class Limits:
    """What a split may cost.

    :ivar added: parameters, or bytes, as the items are measured in.
    :ivar operations: of a forward pass of the branched network.
    """

    added: float = inf
    operations: float = inf


@dataclass(frozen=True)
class Solution:
    """A split of the items, what it does and what it costs.

    :ivar partitions: how each item's copies part the tasks.
    :ivar removed: the conflict that is gone.
    :ivar added: in parameters, or bytes.
    :ivar operations: of a forward pass of the branched network; 0 if the data flow is not known.
    """

    partitions: tuple[Partition, ...]
    removed: float
    added: int
    operations: int

    def within(self, limits: Limits) -> bool:
        """Whether it costs no more than is allowed."""
        return self.added <= limits.added and self.operations <= limits.operations


class Problem:
    """The items of a network, and how its data flows.

    :ivar items: what can be split.
    :ivar flow: of the network before its split, if it is known.
    :ivar tasks: how many there are.
    """

    def __init__(self, tasks: int, items: Sequence[Item], flow: Dataflow | None) -> None:
        self.tasks, self.items, self.flow = tasks, tuple(items), flow
        owner = {name: place for place, item in enumerate(self.items) for name in item.names}
        reads = [{layer_of(key) for key in operation.reads} for operation in (flow.operations if flow else ())]
        self.read_by: Sequence[tuple[int, ...]] = [
            tuple(sorted({owner[name] for name in names if name in owner})) for names in reads
        ]
        """For every operation, the items that it reads."""
        keys = sorted({key for operation in (flow.operations if flow else ()) for key in operation.reads})
        self._reads = [[key for key in keys if layer_of(key) in item.names] for item in self.items]
        self._streams = None if flow is None else Streams(flow)
        self._effects: dict[tuple[int, Partition], tuple[float, int]] = {}

    @property
    def total(self) -> float:
        """All conflict that there is."""
        return sum(item.conflict for item in self.items)

    @cached_property
    def conflicts(self) -> Matrix:
        """How much each two tasks conflict, all items together."""
        places = range(self.tasks)
        return [[sum(item.conflicts[one][other] for item in self.items) for other in places] for one in places]

    def unsplit(self) -> Solution:
        """The network as it is."""
        return self.solution([all_together(self.tasks)] * len(self.items))

    def effect(self, place: int, partition: Partition) -> tuple[float, int]:
        """What it removes, and adds, if an item's copies part the tasks so."""
        key = (place, partition)
        if key not in self._effects:
            item = self.items[place]
            self._effects[key] = item.removed(partition), item.added(partition)
        return self._effects[key]

    def solution(self, partitions: Sequence[Partition]) -> Solution:
        """What a split does and costs."""
        effects = [self.effect(place, partition) for place, partition in enumerate(partitions)]
        return Solution(
            tuple(partitions),
            removed=sum(removed for removed, _ in effects),
            added=sum(added for _, added in effects),
            operations=0 if self._streams is None else self._streams.flops(self.streams(partitions)),
        )

    def streams(self, partitions: Sequence[Partition]) -> list[Partition]:
        """How the streams part at each operation of the data flow."""
        if self._streams is None:
            return []
        pairs = zip(self._reads, partitions, strict=True)
        split = {key: partition for keys, partition in pairs if any(partition) for key in keys}
        return self._streams.of(split)
