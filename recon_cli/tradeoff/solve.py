"""The split that removes the most conflict within limits of parameters and operations.

Prices for both are sought at which the best split keeps the limits (Lagrangian relaxation); what is then left of them
is used up by single steps, and by exchanges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import sqrt

from recon_cli.grouping.partitions import Partition, refines
from recon_cli.tradeoff.prices import Ladder
from recon_cli.tradeoff.problem import Limits, Problem, Solution

_STEPS = 16
"""Halvings of the logarithm of a price."""
_RANGE = 1e-9
"""The lowest price that is tried, relative to the one at which nothing is split."""
_EXCHANGED = 15
"""With more partitions to choose from, no exchanges are tried: they would take minutes."""


def solve(problem: Problem, family: Sequence[Partition], limits: Limits) -> Solution:
    """A split that removes as much conflict as can be within the limits.

    It is the best one found, and not proven to be the best of all; the tests compare it with an exact solver.

    :param family: the partitions that an item may have, coarse ones first.
    """
    ladder = Ladder(problem, family)
    best = problem.unsplit()

    def at(added: float, operations: float) -> Solution:
        nonlocal best
        found = problem.solution(ladder.best(added, operations))
        if found.within(limits):
            best = max(best, found, key=lambda solution: solution.merit)
        return found

    def keeping_added(operations: float) -> Solution:
        return _cheapest_price(
            lambda price: at(price, operations),
            lambda solution: solution.added <= limits.added,
            max((item.conflict / item.size for item in problem.items if item.size), default=0.0),
        )

    _cheapest_price(
        keeping_added, lambda solution: solution.operations <= limits.operations, _dearest_operation(problem)
    )
    return polished(problem, family, limits, best)


def polished(problem: Problem, family: Sequence[Partition], limits: Limits, solution: Solution) -> Solution:
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
    low, high = highest * _RANGE, highest * 2
    found = solve_at(high)
    for _ in range(_STEPS):
        middle = sqrt(low * high)
        tried = solve_at(middle)
        if keeps(tried):
            found, high = tried, middle
        else:
            low = middle
    return found


def _dearest_operation(problem: Problem) -> float:
    """A price of an operation at which no stream parts where that costs any."""
    flops = [operation.flops for operation in problem.flow.operations if operation.flops] if problem.flow else []
    return problem.total / min(flops, default=1)


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
