"""Splits for groups of tasks, and the split that removes the most conflict within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.manifest import ConflictShares, SplitLayer
from recon_cli.artifacts.ranking import Ranking
from recon_cli.branching.choosing import Choice, split_groups
from recon_cli.branching.costs import Group, tied_together
from recon_cli.branching.parameters import ParameterTable, count, count_bytes
from recon_cli.branching.plan import split_by
from recon_cli.branching.requests import CostLimit, SelectionRequest
from recon_cli.branching.streams import count_flops
from recon_cli.errors import ReconError, number
from recon_cli.grouping.best import best_groups, conflict_within
from recon_cli.grouping.partitions import partition_by
from recon_cli.ranking.candidates import candidates_of
from recon_cli.ranking.pairwise import added_up, known_conflicts, pair_conflicts
from recon_cli.ranking.selection import Budget
from recon_cli.tradeoff.family import family_of
from recon_cli.tradeoff.items import item_of
from recon_cli.tradeoff.problem import Limits, Problem
from recon_cli.tradeoff.solve import Solver


def in_groups(choice: Choice, most: int, ranking: Ranking | None, tasks: tuple[str, ...]) -> Choice:
    """The chosen layers with a copy for each group of tasks, the same groups for all, so that no more streams part.

    :param most: how many groups there may be. They are those that leave the least conflict on the chosen layers.
    :raises ReconError: if it is not known which tasks conflict.
    """
    ranked = {layer.name: layer for layer in ranking.layers} if ranking else {}
    matrices = [known_conflicts(ranked[layer.name], tasks) for layer in choice.layers if layer.name in ranked]
    if not matrices and most < len(tasks):
        raise ReconError(
            f"--max-groups {most} is given, but not which of the {len(tasks)} tasks conflict",
            "pass `--ranking` with a ranking of what `recon profile` measured",
        )
    partition = best_groups(added_up(matrices, len(tasks)), most)

    def regrouped(layer: SplitLayer) -> SplitLayer:
        reaching = ranked[layer.name].tasks if layer.name in ranked else None
        return split_by(partition, layer.name, layer.aliases, tasks, reaching)

    return Choice(
        tuple(tuple(map(regrouped, group)) for group in choice.groups), choice.ranks, choice.wanted_parameters
    )


def most_removed(
    wish: SelectionRequest,
    ranking: Ranking | None,
    parameters: ParameterTable,
    tasks: tuple[str, ...],
    *,
    limit: CostLimit | None,
    flow: Dataflow | None,
    ties: Mapping[str, str],
) -> Choice:
    """The layers, and groups of tasks, whose split removes the most conflict within `--max-params` and `--max-cost`.

    :param limit: of the operations, if there is one; the data flow is known then.
    :raises ReconError: if there is no ranking, it does not tell which tasks conflict, or the limits allow no split.
    """
    if ranking is None or wish.max_params is None:
        raise ReconError("--max-params needs to know which layers conflict", "pass `--ranking`")
    budget = Budget.parse(wish.max_params)
    ranked = {layer.name: layer for layer in ranking.layers}
    groups = tied_together(split_groups(candidates_of(ranking, wish.granularity), tasks), ties)
    items = [
        item_of([ranked[layer.name] for layer in group], tasks, _size(group, parameters, budget)) for group in groups
    ]
    problem = Problem(len(tasks), items, flow)
    if not problem.total:
        raise ReconError("no layer has conflicts, so there is nothing to split")
    limits = _limits(budget, limit, parameters, flow)
    found = Solver(problem, family_of(problem.conflicts, wish.max_groups)).solve(limits)
    split = [
        tuple(split_by(partition, layer.name, layer.aliases, tasks, ranked[layer.name].tasks) for layer in group)
        for group, partition in zip(groups, found.partitions, strict=True)
    ]
    chosen = [(rank, _parted(group)) for rank, group in enumerate(split) if _parted(group)]
    if not chosen:
        within = "" if limit is None else f" and --max-cost {number(limit.ratio)}"
        raise ReconError(
            f"within --max-params {wish.max_params}{within}, no layer that has conflicts can be split",
            "raise the limits",
        )
    return Choice(tuple(group for _, group in chosen), tuple(rank for rank, _ in chosen))


def conflict_shares(
    ranking: Ranking | None, layers: Sequence[SplitLayer], tasks: Sequence[str]
) -> ConflictShares | None:
    """How much of the conflict that the ranking found is left when layers are split; None where that is not known."""
    split = {layer.name: layer for layer in layers}
    found = left = 0.0
    for layer in ranking.layers if ranking else ():
        matrix = pair_conflicts(layer, tasks)
        if matrix is None:
            return None
        together = (0,) * len(tasks)
        found += conflict_within(matrix, together)
        if layer.name in split:
            together = partition_by([split[layer.name].branch_of(task) for task in tasks])
        left += conflict_within(matrix, together)
    return ConflictShares(found=found, left=left) if ranking else None


def _size(group: Group, parameters: ParameterTable, budget: Budget) -> int:
    """Parameters, or bytes, of one copy; a tied one once."""
    own = parameters.of_layers(dict.fromkeys(name for layer in group for name in (layer.name, *layer.aliases)))
    return count_bytes(own) if budget.unit == "bytes" else count(own)


def _limits(budget: Budget, limit: CostLimit | None, parameters: ParameterTable, flow: Dataflow | None) -> Limits:
    added = budget.limit(count(parameters.all()))
    return Limits(added) if limit is None or flow is None else Limits(added, limit.ratio * count_flops(flow, ()))


def _parted(group: Group) -> Group:
    return tuple(layer for layer in group if len(layer.branches) > 1)
