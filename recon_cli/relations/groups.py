"""Groups of tasks that get along."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import inf
from statistics import mean

from recon_cli.relations.pairs import matrix_of

_FEWEST = 3
"""Of fewer tasks there is nothing to group."""


def mean_rate(rates: Sequence[float | None]) -> float:
    """How often two tasks conflict on average, over those that were measured together.

    Exact, so that equal rates are no higher than their mean.
    """
    return mean(rate for rate in rates if rate is not None)


def suggest_groups(rates: Sequence[float | None], tasks: int) -> tuple[tuple[int, ...], ...] | None:
    """Put tasks together no two of which conflict more often than two tasks do on average.

    Agglomerative clustering with complete linkage: every task begins by itself; as long as that is kept, the two groups
    are joined whose tasks conflict least, by the highest rate between any two of them; of equal ones, those that come
    first. Tasks that were never measured together are in different groups.

    :param rates: how often each two tasks conflict, in the order (0, 1), (0, 2), ...; None where they were never
        measured.
    :returns: the places of the tasks, in order; a task that was measured with no other is in none. None if fewer than
        three were measured.
    """
    matrix = matrix_of(rates, tasks, None)
    members = [task for task in range(tasks) if any(rate is not None for rate in matrix[task])]
    if len(members) < _FEWEST:
        return None
    limit = mean_rate(rates)

    def apart(one: Sequence[int], other: Sequence[int]) -> float:
        between = [matrix[i][j] for i in one for j in other]
        return max(inf if rate is None else rate for rate in between)

    groups: list[tuple[int, ...]] = [(task,) for task in members]
    while len(groups) > 1:
        height, one, other = min((apart(one, other), one, other) for one, other in combinations(groups, 2))
        if height > limit:
            break
        groups = sorted([*(group for group in groups if group not in (one, other)), tuple(sorted(one + other))])
    return tuple(groups)
