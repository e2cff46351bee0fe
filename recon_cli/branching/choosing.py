"""Choosing the layers of a checkpoint that are split, by the policy that the user asked for."""

from __future__ import annotations

from recon_cli.artifacts.manifest import SplitLayer
from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.branching.parameters import ParameterTable, count, count_bytes
from recon_cli.branching.plan import split_per_task
from recon_cli.branching.requests import SelectionRequest
from recon_cli.errors import ReconError
from recon_cli.ranking import selection as policies
from recon_cli.ranking.selection import Budget, Cost


def choose(
    wish: SelectionRequest, ranking: Ranking | None, parameters: ParameterTable, tasks: tuple[str, ...]
) -> tuple[SplitLayer, ...]:
    """The layers that are split, each with a branch for every task that reaches it.

    :raises ReconError: if the policy needs a ranking and there is none, or finds no layer.
    """
    known = {layer.name: layer for layer in ranking.layers} if ranking else {}
    return tuple(
        split_per_task(name, known[name].aliases, tasks, known[name].tasks)
        if name in known
        else split_per_task(name, (), tasks)
        for name in _names(wish, ranking, parameters, tasks)
    )


def _names(
    wish: SelectionRequest, ranking: Ranking | None, parameters: ParameterTable, tasks: tuple[str, ...]
) -> tuple[str, ...]:
    if wish.layers is not None:
        first_names = {alias: layer.name for layer in (ranking.layers if ranking else ()) for alias in layer.aliases}
        # Two names of one tied layer are one layer.
        return tuple(dict.fromkeys(first_names.get(name, name) for name in policies.explicit(wish.layers)))
    if ranking is None:
        raise ReconError(
            "there is no ranking to choose the layers from",
            "pass --ranking, or name the layers with --layers",
        )
    if wish.top_k is not None:
        return policies.top_k(ranking, wish.top_k)
    if wish.min_score is not None:
        return policies.min_score(ranking, wish.min_score)
    assert wish.budget is not None
    costs = {layer.name: _cost(layer, parameters, tasks) for layer in ranking.layers}
    return policies.within_budget(ranking, Budget.parse(wish.budget), costs, count(parameters.all()))


def _cost(layer: RankedLayer, parameters: ParameterTable, tasks: tuple[str, ...]) -> Cost:
    own = parameters.of_layers((layer.name, *layer.aliases))
    added = len(layer.tasks or tasks) - 1
    return Cost(count(own) * added, count_bytes(own) * added)
