"""Deciding what is done to a checkpoint: everything is checked here, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.manifest import BranchingCost, Selection, Sizes, SplitLayer
from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.artifacts.scores import UnrankedLayer
from recon_cli.artifacts.sharing import Sharing
from recon_cli.branching.choosing import Choice, choose
from recon_cli.branching.costs import cost_of, within_limit
from recon_cli.branching.flows import FlowSource
from recon_cli.branching.matching import check_ranking, check_unbranched, tasks_of
from recon_cli.branching.optimal import conflict_shares, in_groups, most_removed
from recon_cli.branching.parameters import ParameterTable
from recon_cli.branching.plan import BranchingPlan, check_ties, plan_branching
from recon_cli.branching.requests import SplitRequest
from recon_cli.branching.sizing import sizes_of
from recon_cli.branching.statistics import own_statistics
from recon_cli.checkpoints.prefixes import Unprefixed
from recon_cli.errors import ReconError, number
from recon_cli.layers.names import layer_of


@dataclass(frozen=True)
class Decision:
    """What is done to a checkpoint.

    :ivar plan: where its tensors go.
    :ivar batchnorm: how it was decided about running statistics of unsplit layers.
    :ivar parameters: which of them are parameters, in the checkpoint's order, a tied one once.
    :ivar cost: what it costs in operations, if that is known.
    :ivar untouched: layers of the checkpoint that the ranking does not know; they stay as they are.
    :ivar without_conflicts: split layers whose score is 0.
    """

    plan: BranchingPlan
    batchnorm: Sharing
    parameters: tuple[str, ...]
    sizes: Sizes
    selection: Selection
    cost: BranchingCost | None = None
    untouched: tuple[str, ...] = ()
    without_conflicts: tuple[str, ...] = ()


def decide(request: SplitRequest, source: Unprefixed, flow_source: FlowSource) -> Decision:
    """Decide what is done to an open checkpoint.

    :param flow_source: tells the data flow of the network that is split, if it is known.
    :raises ReconError: for whatever would make the split fail.
    """
    ranking = request.ranking
    check_unbranched(source, request.checkpoint)
    tasks = tasks_of(request)
    parameters = ParameterTable(source, ranking)
    untouched = check_ranking(ranking, parameters, request.checkpoint) if ranking else ()
    flow = flow_source(tasks)
    if request.limit is not None and flow is None:
        raise ReconError(
            f"--max-cost {number(request.limit.ratio)} is given, but what the split costs in operations is not known",
            "pass `--ranking` with a ranking of what `recon profile` measured; it can stand beside `--layers`",
        )
    choice = _choose(request, parameters, tasks, flow, source.ties)
    layers = choice.layers
    if request.limit is not None and flow is not None:
        layers = within_limit(choice, request.limit, flow, source.ties)
    statistics = None
    if request.batchnorm == "per-stream" and flow is None:
        raise ReconError(
            "--batchnorm per-stream is given, but it is not known which running statistics lie behind a split: "
            f"{flow_source.missing}"
        )
    if request.batchnorm != "shared" and flow is not None:
        statistics = own_statistics(flow, layers, parameters.tensors, _first_names(ranking, source))
    plan = plan_branching(parameters.tensors, layers, tasks, parameters.layers, statistics=statistics)
    check_ties(plan, source.ties)
    idle = {layer.name for layer in ranking.layers if layer.score == 0} if ranking else set()
    return Decision(
        plan=plan,
        batchnorm="per-stream" if statistics is not None else request.batchnorm or "unknown",
        parameters=tuple(parameters.own),
        sizes=sizes_of(parameters, plan, ranking, choice.wanted_parameters),
        selection=_selection(request, choice, layers, tasks),
        cost=None if flow is None else cost_of(flow, layers, source.ties),
        untouched=untouched,
        without_conflicts=tuple(layer.name for layer in plan.layers if layer.name in idle),
    )


def _choose(
    request: SplitRequest,
    parameters: ParameterTable,
    tasks: tuple[str, ...],
    flow: Dataflow | None,
    ties: Mapping[str, str],
) -> Choice:
    wish, ranking = request.selection, request.ranking
    if wish.max_params is not None:
        return most_removed(wish, ranking, parameters, tasks, limit=request.limit, flow=flow, ties=ties)
    choice = choose(wish, ranking, parameters, tasks)
    return choice if wish.max_groups is None else in_groups(choice, wish.max_groups, ranking, tasks)


def _first_names(ranking: Ranking | None, source: Unprefixed) -> dict[str, str]:
    """For the names of tied tensors, the first one in the network, as far as file and ranking tell."""
    known: list[RankedLayer | UnrankedLayer] = [*ranking.layers, *(ranking.unranked or ())] if ranking else []
    firsts = {alias: layer.name for layer in known for alias in layer.aliases}
    keys = (tensor.key for tensor in source.tensors)
    by_layer = {key: firsts[layer_of(key)] + key[len(layer_of(key)) :] for key in keys if layer_of(key) in firsts}
    return {**source.ties, **by_layer}


def _selection(
    request: SplitRequest, choice: Choice, layers: Sequence[SplitLayer], tasks: tuple[str, ...]
) -> Selection:
    wish = request.selection
    return Selection(
        policy=wish.policy,
        argument=wish.argument,
        granularity=wish.granularity,
        seed=wish.drawn_with,
        ranking_digest=None if request.ranking is None else digest_bytes(request.ranking.to_bytes()),
        search_digest=None if wish.search is None else digest_bytes(wish.search.to_bytes()),
        max_cost=None if request.limit is None else request.limit.ratio,
        left_out=tuple(layer.name for layer in choice.layers if layer not in layers),
        max_groups=wish.max_groups,
        conflict=conflict_shares(request.ranking, layers, tasks),
    )
