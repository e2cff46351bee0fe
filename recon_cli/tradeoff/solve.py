"""The split that removes the most conflict within limits of parameters and operations.

Prices for both are sought at which the best split keeps the limits (Lagrangian relaxation); what is then left of them
is used up by single steps, and by exchanges.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from math import inf, sqrt

from recon_cli.grouping.partitions import Partition, refines
from recon_cli.tradeoff.prices import Ladder
from recon_cli.tradeoff.problem import Limits, Problem, Solution

_STEPS = 16
"""Halvings of the logarithm of a price."""
_RANGE = 1e-9
"""The lowest price that is tried, relative to the one at which nothing is split."""
_SAMPLED = 16
"""Prices of each kind in a sample."""
_POLISHED = 5
"""So many solutions are improved on: the best one is not always the one from which the best comes."""
_EXCHANGED = 5
"""With more partitions to choose from, as four tasks have, no exchanges are tried: they would take minutes."""


class Solver:
    """Finds splits of a problem within limits.

    What it finds is the best that was found, and not proven to be the best of all; the tests compare it with an exact
    solver.

    :param family: the partitions that an item may have, coarse ones first.
    """

    def __init__(self, problem: Problem, family: Sequence[Partition]) -> None:
        self.problem = problem
        self._family = family
        # With few groups to choose from, prices lead to splits that they jump over where there are many.
        self._ladders = [Ladder(problem, part) for part in _coarser_parts(family)]
        self._highest = (
            2 * max((item.conflict / item.size for item in problem.items if item.size), default=0.0),
            2 * problem.total / _least_operation(problem),
        )
        self._unsplit = problem.unsplit()

    def solve(self, limits: Limits) -> Solution:
        """A split that removes as much conflict as can be within the limits."""
        tried = [self._unsplit]
        for ladder in self._ladders:
            tried += self._at_prices(ladder, limits)
        for first in self._starts:
            _cheapest_price(partial(self._late, tried, first), partial(_keeps_added, limits), self._highest[0])
        return self.best_of(tried, limits)

    def sample(self) -> list[Solution]:
        """Good splits of all sizes and costs: the best ones at many prices of parameters and operations."""
        falling = [_RANGE ** (step / _SAMPLED) for step in range(_SAMPLED)]
        prices = [[0.0, *(highest * part for part in falling)] for highest in self._highest]
        if self.problem.flow is None:
            prices[1] = [0.0]
        found = [self._unsplit]
        found += [self._at(ladder, *pair) for ladder in self._ladders for pair in product(*prices)]
        for first, price in product(self._starts, prices[0]):
            self._late(found, first, price)
        return list(dict.fromkeys(found))

    def best_of(self, solutions: Iterable[Solution], limits: Limits, *, exchange: bool = True) -> Solution:
        """What comes of the best ones within the limits when what they leave of them is used up.

        :param solutions: one within the limits at least.
        :param exchange: whether taking something back for something else is tried as well, which takes seconds.
        """
        within = dict.fromkeys(each for each in solutions if each.within(limits))
        best = sorted(within, key=_merit, reverse=True)[:_POLISHED]
        improved = _polished if exchange and len(self._family) <= _EXCHANGED else _filled
        return max((improved(self.problem, self._family, limits, each) for each in best), key=_merit)

    def _at_prices(self, ladder: Ladder, limits: Limits) -> list[Solution]:
        """The best splits at the prices that are tried until the limits are kept."""
        tried = []

        def at(added: float, operations: float) -> Solution:
            tried.append(self._at(ladder, added, operations))
            return tried[-1]

        def keeping_added(operations: float) -> Solution:
            return _cheapest_price(lambda price: at(price, operations), partial(_keeps_added, limits), self._highest[0])

        _cheapest_price(keeping_added, lambda found: found.operations <= limits.operations, self._highest[1])
        return tried

    @property
    def _starts(self) -> range:
        """Stretches of the network at which streams may part for the first time, but for the very first one."""
        return range(1, self._ladders[0].stretches)

    def _late(self, tried: list[Solution], first: int, price: float) -> Solution:
        """The best split into two groups whose streams part from a stretch on.

        Operations have no price there: where few of them come behind a stretch with many, prices would jump over it.
        """
        tried.append(self.problem.solution(self._ladders[0].best(price, 0.0, first)))
        return tried[-1]

    def _at(self, ladder: Ladder, added: float, operations: float) -> Solution:
        return self.problem.solution(ladder.best(added, operations))


def _polished(problem: Problem, family: Sequence[Partition], limits: Limits, solution: Solution) -> Solution:
    """Use up what a solution leaves of the limits, as long as that removes more conflict."""
    best = _filled(problem, family, limits, solution)
    while True:
        for smaller in _steps_back(problem, family, best):
            found = _filled(problem, family, limits, smaller)
            if _merit(found) > _merit(best):
                best = found
                break
        else:
            return best


def _merit(solution: Solution) -> tuple[float, int, int]:
    """By what solutions are compared: more conflict removed, then fewer operations, then fewer parameters."""
    return solution.removed, -solution.operations, -solution.added


def _keeps_added(limits: Limits, solution: Solution) -> bool:
    return solution.added <= limits.added


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


def _coarser_parts(family: Sequence[Partition]) -> Iterator[Sequence[Partition]]:
    """The partitions of a family into at most 2, 3, 5 and all groups."""
    widths = [len(set(partition)) for partition in family]
    for most in sorted({min(width, widths[-1]) for width in (2, 3, 5, widths[-1])}):
        yield family[: bisect_right(widths, most)]


_Order = Callable[[float, int], float]
"""What steps are taken by, from the conflict that they remove and the parameters that they add: the lowest first."""


def _by_conflict(removed: float, _: int) -> float:
    return -removed


def _by_share(removed: float, added: int) -> float:
    return -removed / added if added > 0 else -inf


def _filled(problem: Problem, family: Sequence[Partition], limits: Limits, solution: Solution) -> Solution:
    """Take one step after the other that removes more conflict, as long as one keeps within the limits."""
    found = (_filled_by(order, problem, family, limits, solution) for order in (_by_conflict, _by_share))
    return max(found, key=_merit)


def _filled_by(
    order: _Order, problem: Problem, family: Sequence[Partition], limits: Limits, solution: Solution
) -> Solution:
    while True:
        for found in _steps_on(order, problem, family, limits, solution):
            solution = found
            break
        else:
            return solution


def _steps_on(
    order: _Order, problem: Problem, family: Sequence[Partition], limits: Limits, solution: Solution
) -> Iterator[Solution]:
    """Solutions with one item parted otherwise that remove more conflict within the limits."""
    steps = []
    for place, now in enumerate(solution.partitions):
        removed_now, added_now = problem.effect(place, now)
        for index, partition in enumerate(family):
            removed, added = problem.effect(place, partition)
            if removed > removed_now and solution.added - added_now + added <= limits.added:
                steps.append((order(removed - removed_now, added - added_now), place, index))
    if not steps:
        return
    free = _free_of_cost(problem, solution)
    for _, place, index in sorted(steps):
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
