"""The best split where parameters and operations have prices, by dynamic programming along the network.

Streams that have parted never join again. So the partition of the streams is refined from one operation to the next,
and a layer may be split by any partition that the streams refine at no further cost in operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from recon_cli.grouping.partitions import Partition, refines
from recon_cli.tradeoff.problem import Problem


@dataclass
class _Rung:
    """A stretch of the network, from the first operation that reads some items to the next such one.

    :ivar items: their positions.
    :ivar flops: what it costs in operations, by how the streams part there.
    """

    items: tuple[int, ...]
    flops: list[int] = field(default_factory=list)


class Ladder:
    """A network as the stretches between its items, each with all partitions that the streams may have there.

    Operations are taken in their order, each to have the streams of the one before it or finer ones. Where branches of
    the network run beside each other, that counts operations of one in streams that parted in the other; what a
    solution costs in truth is counted by :meth:`Problem.solution`.

    :param family: the partitions, coarse ones first, as :func:`recon_cli.tradeoff.family.family_of` gives them.
    """

    def __init__(self, problem: Problem, family: Sequence[Partition]) -> None:
        self._family = family
        self._coarser = [[place for place, each in enumerate(family) if refines(fine, each)] for fine in family]
        self._effects = [[problem.effect(place, each) for each in family] for place in range(len(problem.items))]
        self._rungs = _rungs_of(problem, family)
        placed = {item for rung in self._rungs for item in rung.items}
        self._free = [item for item in range(len(problem.items)) if item not in placed]

    @property
    def stretches(self) -> int:
        """In how many stretches the network is taken."""
        return len(self._rungs)

    def best(self, added: float, operations: float, first: int = 0) -> list[Partition]:
        """The split with the most of: conflict removed, less its parameters and operations at their prices.

        :param added: the price of a parameter, or byte; as `operations`, in units of conflict.
        :param first: the stretch at which streams may part for the first time.
        :returns: a partition for every item.
        """
        values = [[removed - added * more for removed, more in of_item] for of_item in self._effects]
        states = range(len(self._family))
        best = [0.0, *(-inf for _ in states[1:])]
        steps: list[list[int]] = []
        for place, rung in enumerate(self._rungs):
            before = [max(self._coarser[state], key=best.__getitem__) for state in states]
            gains = [
                sum(max(map(values[item].__getitem__, self._coarser[state])) for item in rung.items) for state in states
            ]
            best = [best[before[s]] + gains[s] - operations * rung.flops[s] for s in states]
            if place < first:
                best[1:] = [-inf] * (len(states) - 1)
            steps.append(before)
        chosen = [0] * len(values)
        for item in self._free:
            chosen[item] = max(states, key=values[item].__getitem__)
        state = max(states, key=best.__getitem__)
        for rung, before in zip(reversed(self._rungs), reversed(steps), strict=True):
            for item in rung.items:
                chosen[item] = max(self._coarser[state], key=values[item].__getitem__)
            state = before[state]
        return [self._family[place] for place in chosen]


def _rungs_of(problem: Problem, family: Sequence[Partition]) -> list[_Rung]:
    seen: set[int] = set()
    rungs: list[_Rung] = []
    for operation, items in zip(problem.flow.operations if problem.flow else (), problem.read_by, strict=True):
        new = tuple(item for item in items if item not in seen)
        if new:
            seen.update(new)
            rungs.append(_Rung(new, [0] * len(family)))
        if rungs and operation.flops:
            for state, partition in enumerate(family):
                rungs[-1].flops[state] += operation.flops * len({partition[task] for task in operation.tasks})
    return rungs
