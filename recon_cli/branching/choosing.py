"""Choosing the layers of a checkpoint that are split, by the policy that the user asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recon_cli.artifacts.manifest import SplitLayer
from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.artifacts.search import SearchResult
from recon_cli.branching.parameters import ParameterTable, count, count_bytes
from recon_cli.branching.plan import split_by_groups, split_per_task
from recon_cli.branching.requests import SelectionRequest
from recon_cli.errors import ReconError, did_you_mean, quoted
from recon_cli.layers.names import modules_of
from recon_cli.ranking import selection as policies
from recon_cli.ranking.candidates import Candidate, candidates_of, in_network_order
from recon_cli.ranking.selection import Budget, Cost


@dataclass(frozen=True)
class Choice:
    """The layers that a policy chose, each with its branches: one for every task that reaches it, or those of a search.

    :ivar groups: those that are split as a whole or not at all, such as the layers of a module, in their order.
    :ivar ranks: for each group, how far down the ranking it stands; without one, in which order it was named.
    :ivar wanted_parameters: how many parameters they were to have, if the policy matches a number.
    """

    groups: tuple[tuple[SplitLayer, ...], ...]
    ranks: tuple[int, ...]
    wanted_parameters: int | None = None

    @property
    def layers(self) -> tuple[SplitLayer, ...]:
        """All of them."""
        return tuple(layer for group in self.groups for layer in group)


def choose(
    wish: SelectionRequest, ranking: Ranking | None, parameters: ParameterTable, tasks: tuple[str, ...]
) -> Choice:
    """Choose the layers that are split.

    :raises ReconError: if the policy needs a ranking and there is none, or finds nothing.
    """
    if wish.search is not None:
        return _searched_layers(wish.search)
    if wish.layers is not None:
        return _named_layers(wish, wish.layers, ranking, parameters, tasks)
    if ranking is None:
        raise ReconError(
            "there is no ranking to choose the layers from",
            "pass --ranking, or name the layers with --layers, or pass --search",
        )
    candidates = candidates_of(ranking, wish.granularity)
    chosen = _apply_policy(wish, candidates, ranking, parameters, tasks)
    wanted = None
    if wish.random_parameters is not None:
        wanted = sum(_size(candidate, parameters) for candidate in candidates[: wish.random_parameters])
    ranks = {candidate.name: rank for rank, candidate in enumerate(candidates)}
    return Choice(
        groups=split_groups(chosen, tasks),
        ranks=tuple(ranks[candidate.name] for candidate in chosen),
        wanted_parameters=wanted,
    )


def split_groups(candidates: Sequence[Candidate], tasks: tuple[str, ...]) -> tuple[tuple[SplitLayer, ...], ...]:
    """For each candidate, its layers with a branch for every task that reaches them."""
    return tuple(tuple(_split(layer, tasks) for layer in candidate.layers) for candidate in candidates)


def _apply_policy(
    wish: SelectionRequest,
    candidates: Sequence[Candidate],
    ranking: Ranking,
    parameters: ParameterTable,
    tasks: tuple[str, ...],
) -> tuple[Candidate, ...]:
    if wish.top_k is not None:
        return policies.top_k(candidates, wish.top_k)
    if wish.min_score is not None:
        return policies.min_score(candidates, wish.min_score)
    if wish.random_layers is not None:
        return policies.random_layers(candidates, wish.random_layers, wish.seed or 0)
    if wish.random_parameters is not None:
        sizes = {candidate.name: _size(candidate, parameters) for candidate in candidates}
        return policies.random_parameters(candidates, wish.random_parameters, sizes, wish.seed or 0)
    if wish.first_k is not None:
        return policies.first_k(in_network_order(candidates, _positions(ranking, parameters)), wish.first_k)
    if wish.last_k is not None:
        return policies.last_k(in_network_order(candidates, _positions(ranking, parameters)), wish.last_k)
    assert wish.budget is not None
    costs = {candidate.name: _cost(candidate, parameters, tasks) for candidate in candidates}
    return policies.within_budget(candidates, Budget.parse(wish.budget), costs, count(parameters.all()))


def _named_layers(
    wish: SelectionRequest,
    named: Sequence[str],
    ranking: Ranking | None,
    parameters: ParameterTable,
    tasks: tuple[str, ...],
) -> Choice:
    ranked = {layer.name: layer for layer in ranking.layers} if ranking else {}
    # Layers may be called as in the file, behind what a wrapper put there.
    names = policies.explicit([_bare(name, parameters) for name in named])
    together: Sequence[tuple[str, ...]] = [(name,) for name in names]
    if wish.granularity == "module":
        own = ranked or [name for name in parameters.layers.keys if parameters.of_layers([name])]
        together = _inside(names, modules_of(own))
    first_names = {alias: layer.name for layer in ranked.values() for alias in layer.aliases}
    seen: set[str] = set()
    groups = []
    for group in together:
        # Two names of one tied layer are one layer.
        distinct = [name for name in dict.fromkeys(first_names.get(name, name) for name in group) if name not in seen]
        seen.update(distinct)
        if distinct:
            groups.append(distinct)
    ranks = {name: rank for rank, name in enumerate(ranked)}
    return Choice(
        groups=tuple(
            tuple(_split(ranked[name], tasks) if name in ranked else split_per_task(name, (), tasks) for name in group)
            for group in groups
        ),
        ranks=tuple(min(ranks.get(name, len(ranks) + place) for name in group) for place, group in enumerate(groups)),
    )


def _searched_layers(found: SearchResult) -> Choice:
    """The layers of the modules that a search gives several copies, a module as a whole or not at all."""
    groups = tuple(
        tuple(split_by_groups(layer.name, layer.aliases, found.tasks, module.groups) for layer in module.layers)
        for module in found.modules
        if len(module.groups) > 1 and module.layers
    )
    if not groups:
        raise ReconError("the search found that all tasks share all modules, so there is nothing to split")
    return Choice(groups, tuple(range(len(groups))))


def _bare(name: str, parameters: ParameterTable) -> str:
    return name if name in parameters.layers.keys else name.removeprefix(parameters.prefix)


def _inside(names: Sequence[str], modules: dict[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    for name in names:
        if name not in modules:
            raise ReconError(f"no module {quoted(name)} holds layers that can be split", did_you_mean(name, modules))
    return [modules[name] for name in names]


def _split(layer: RankedLayer, tasks: tuple[str, ...]) -> SplitLayer:
    return split_per_task(layer.name, layer.aliases, tasks, layer.tasks)


def _positions(ranking: Ranking, parameters: ParameterTable) -> dict[str, int]:
    """For each ranked layer, its place in the network's order; without that, in the checkpoint's.

    :raises ReconError: if the checkpoint's order is that of the names, which says nothing.
    """
    known = {layer.name: layer.position for layer in ranking.layers if layer.position is not None}
    if known:
        return known
    if parameters.has_lost_order:
        raise ReconError(
            "the order of the network's layers is not known: the ranking does not hold it, and the checkpoint lists "
            "its tensors by name",
            "rank the scores of a profile, or split the state dict that `torch.save` wrote",
        )
    places = {name: place for place, name in enumerate(parameters.layers.keys, start=1)}
    return {
        layer.name: min(places[name] for name in (layer.name, *layer.aliases) if name in places)
        for layer in ranking.layers
    }


def _parameters(candidate: Candidate, parameters: ParameterTable) -> list[tuple[RankedLayer, int, int]]:
    """For each layer of a candidate, its parameters and their bytes in the checkpoint."""
    found = [(layer, parameters.of_layers((layer.name, *layer.aliases))) for layer in candidate.layers]
    return [(layer, count(own), count_bytes(own)) for layer, own in found]


def _size(candidate: Candidate, parameters: ParameterTable) -> int:
    return sum(size for _, size, _ in _parameters(candidate, parameters))


def _cost(candidate: Candidate, parameters: ParameterTable, tasks: tuple[str, ...]) -> Cost:
    parts = _parameters(candidate, parameters)
    return Cost(
        sum(size * (len(layer.tasks or tasks) - 1) for layer, size, _ in parts),
        sum(size * (len(layer.tasks or tasks) - 1) for layer, _, size in parts),
    )
