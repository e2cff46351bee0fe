"""The whole trade-off: what can be removed within every limit, and what the published choice removes."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.tradeoff import Published, SplitCost, Tradeoff, Within
from recon_cli.errors import ReconError
from recon_cli.grouping.partitions import all_apart, all_together, groups_of
from recon_cli.tradeoff.family import family_of
from recon_cli.tradeoff.items import item_of
from recon_cli.tradeoff.problem import Limits, Problem, Solution
from recon_cli.tradeoff.solve import Solver

_PARAMETERS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, None)
_OPERATIONS = (1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 3.0, 5.0, 10.0, 20.0)
_KS = (1, 2, 3, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300)


def tradeoff(ranking: Ranking, max_groups: int | None = None) -> Tradeoff:
    """Find how much conflict can be removed for how many parameters and operations.

    :param max_groups: how many copies a layer may have; None for one for every task.
    :raises ReconError: if the ranking names no tasks, does not tell which of them conflict, or how large its layers
        are, or nothing conflicts.
    """
    if ranking.tasks is None or any(layer.size is None for layer in ranking.layers):
        raise ReconError(
            "the ranking does not tell how large its layers are", "take one that `recon rank` made of scores"
        )
    if max_groups is not None and max_groups < 2:
        raise ReconError(f"--max-groups {max_groups} would leave every layer shared", "allow 2 or more")
    items = [item_of([layer], ranking.tasks, layer.size or 0) for layer in ranking.layers]
    problem = Problem(len(ranking.tasks), items, ranking.flow)
    if not problem.total:
        raise ReconError("no layer has conflicts, so there is nothing to split")
    solver = Solver(problem, family_of(problem.conflicts, max_groups))
    sample, size = solver.sample(), sum(item.size for item in items)
    return Tradeoff(
        tasks=ranking.tasks,
        ranking_digest=digest_bytes(ranking.to_bytes()),
        max_groups=max_groups,
        conflict=problem.total,
        parameters=size,
        within=tuple(
            Within(
                max_parameters=share,
                max_operations=ratio,
                split=_cost(problem, solver.best_of(sample, limits, exchange=False)),
            )
            for ratio in _ratios(problem)
            for share in _PARAMETERS
            for limits in [_limits(problem, size, share, ratio)]
        ),
        published=tuple(_published(solver, sample, k) for k in sorted({*_KS, len(items)}) if k <= len(items)),
    )


def _ratios(problem: Problem) -> Sequence[float | None]:
    """The limits of the operations that are tried: those that matter."""
    if problem.flow is None:
        return [None]
    shared = problem.unsplit().operations
    dearest = problem.solution([all_apart(problem.tasks)] * len(problem.items)).operations
    return [*(ratio for ratio in _OPERATIONS if ratio * shared < dearest), None]


def _limits(problem: Problem, size: int, share: float | None, ratio: float | None) -> Limits:
    return Limits(
        inf if share is None else share * size, inf if ratio is None else ratio * problem.unsplit().operations
    )


def _published(solver: Solver, sample: Sequence[Solution], k: int) -> Published:
    problem = solver.problem
    apart, together = all_apart(problem.tasks), all_together(problem.tasks)
    first = problem.solution([apart if place < k else together for place in range(len(problem.items))])
    instead = solver.best_of([*sample, first], Limits(first.added, first.operations), exchange=False)
    return Published(k=k, split=_cost(problem, first), instead=_cost(problem, instead))


def _cost(problem: Problem, solution: Solution) -> SplitCost:
    split = [partition for partition in solution.partitions if any(partition)]
    return SplitCost(
        removed=solution.removed / problem.total,
        layers=len(split),
        copies=max((len(groups_of(partition)) for partition in split), default=1),
        parameters=solution.added,
        operations=None if problem.flow is None else solution.operations / problem.unsplit().operations,
    )
