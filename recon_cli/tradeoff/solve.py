"""The split that removes the most conflict within limits of parameters and operations.

Prices for both are sought at which the best split keeps the limits (Lagrangian relaxation); what is then left of them
is used up by single steps, and by exchanges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from math import sqrt

from recon_cli.grouping.partitions import Partition, refines
from recon_cli.tradeoff.prices import Ladder
from recon_cli.tradeoff.problem import Limits, Problem, Solution

_STEPS = 16
"""Halvings of the logarithm of a price."""
_RANGE = 1e-9
"""The lowest price that is tried, relative to the one at which nothing is split."""
_SAMPLED = 16
"""Prices of each kind in a sample."""
_EXCHANGED = 15
"""With more partitions to choose from, no exchanges are tried: they would take minutes."""


class Solver:
    """Finds splits of a problem within limits.

    What it finds is the best that was found, and not proven to be the best of all; the tests compare it with an exact
    solver.

    :param family: the partitions that an item may have, coarse ones first.
    """

    def __init__(self, problem: Problem, family: Sequence[Partition]) -> None:
        self.problem = problem
        self._family = family
        self._ladder = Ladder(problem, family)
        self._highest = (
            2 * max((item.conflict / item.size for item in problem.items if item.size), default=0.0),
            2 * problem.total / _least_operation(problem),
        )
        self._unsplit = problem.unsplit()

    def solve(self, limits: Limits) -> Solution:
        """A split that removes as much conflict as can be within the limits."""
        tried = [self._unsplit]

        def at(added: float, operations: float) -> Solution:
            tried.append(self._at(added, operations))
            return tried[-1]

        def keeping_added(operations: float) -> Solution:
            return _cheapest_price(
                lambda price: at(price, operations), lambda found: found.added <= limits.added, self._highest[0]
            )

        _cheapest_price(keeping_added, lambda found: found.operations <= limits.operations, self._highest[1])
        return self.best_of(tried, limits)

    def sample(self) -> list[Solution]:
        """Good splits of all sizes and costs: the best ones at many prices of parameters and operations."""
        falling = [_RANGE ** (step / _SAMPLED) for step in range(_SAMPLED)]
        prices = [[0.0, *(highest * part for part in falling)] for highest in self._highest]
        if self.problem.flow is None:
            prices[1] = [0.0]
        return list(dict.fromkeys([self._unsplit, *(self._at(*pair) for pair in product(*prices))]))

    def best_of(self, solutions: Iterable[Solution], limits: Limits) -> Solution:
        """The best one within the limits, and what it leaves of them used up.

        :param solutions: one within the limits at least.
        """
        best = max((each for each in solutions if each.within(limits)), key=lambda solution: solution.merit)
        return _polished(self.problem, self._family, limits, best)

    def _at(self, added: float, operations: float) -> Solution:
        return self.problem.solution(self._ladder.best(added, operations))


def _polished(problem: Problem, family: Sequence[Partition], limits: Limits, solution: Solution) -> Solution:
    """Use up what a solution leaves of the limits, as long as that removes more conflict."""
    best = _filled(problem, family, limits, solution)
    if len(family) > _EXCHANGED:
        return best
    while True:
        for smaller in _steps_back(problem, family, best):
            found = _filled(problem, family, limits, smaller)
            if found.merit > best.merit:
                best = found
                break
        else:
            return best


def _cheapest_price(
    solve_at: Callable[[float], Solution], keeps: Callable[[Solution], bool], highest: float
) -> Solution:
    """The solution at the lowest price that keeps a limit, as near as halving finds it.

    :param highest: a price that does.
    """
    if keeps(found := solve_at(0.0)):
        return found
    low, high = highest * _RANGE, highest
    found = solve_at(high)
    for _ in range(_STEPS):
        middle = sqrt(low * high)
        tried = solve_at(middle)
        if keeps(tried):
            found, high = tried, middle
        else:
            low = middle
    return found


def _least_operation(problem: Problem) -> int:
    operations = problem.flow.operations if problem.flow else ()
    return min((operation.flops for operation in operations if operation.flops), default=1)


def _filled(problem: Problem, family: Sequence[Partition], limits: Limits, solution: Solution) -> Solution:
    """Take the step that removes the most conflict, as long as one keeps within the limits."""
    while True:
        for found in _steps_on(problem, family, limits, solution):
            solution = found
            break
        else:
            return solution


def _steps_on(problem: Problem, family: Sequence[Partition], limits: Limits, solution: Solution) -> Iterator[Solution]:
    """Solutions with one item parted otherwise that remove more conflict within the limits, the best ones first."""
    steps = []
    for place, (item, now) in enumerate(zip(problem.items, solution.partitions, strict=True)):
        for index, partition in enumerate(family):
            gain = item.removed(partition) - item.removed(now)
            more = item.added(partition) - item.added(now)
            if gain > 0 and solution.added + more <= limits.added:
                steps.append((-gain, more, place, index))
    if not steps:
        return
    free = _free_of_cost(problem, solution)
    for _, _, place, index in sorted(steps):
        # Where no operations are left, only what costs none needs to be tried.
        if solution.operations >= limits.operations and not free(place, family[index]):
            continue
        found = problem.solution([*solution.partitions[:place], family[index], *solution.partitions[place + 1 :]])
        if found.within(limits):
            yield found


def _free_of_cost(problem: Problem, solution: Solution) -> Callable[[int, Partition], bool]:
    """Tells whether an item may be parted otherwise without further operations, as its streams part so already."""
    streams_at: list[list[Partition]] = [[] for _ in problem.items]
    for stream, items in zip(problem.streams(solution.partitions), problem.read_by, strict=True):
        for item in items:
            streams_at[item].append(stream)
    return lambda place, partition: all(refines(stream, partition) for stream in streams_at[place])


def _steps_back(problem: Problem, family: Sequence[Partition], solution: Solution) -> Iterator[Solution]:
    """Solutions with one item parted less."""
    for place, now in enumerate(solution.partitions):
        for partition in family:
            if partition != now and refines(now, partition):
                yield problem.solution([*solution.partitions[:place], partition, *solution.partitions[place + 1 :]])
