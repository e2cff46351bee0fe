"""Deciding what is done to a checkpoint: everything is checked here, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.manifest import BranchingCost, Selection, Sizes, SplitLayer
from recon_cli.branching.choosing import Choice, choose
from recon_cli.branching.costs import cost_of, within_limit
from recon_cli.branching.matching import check_ranking, check_unbranched, tasks_of
from recon_cli.branching.parameters import ParameterTable
from recon_cli.branching.plan import BranchingPlan, check_ties, plan_branching
from recon_cli.branching.requests import CostLimit, SplitRequest
from recon_cli.branching.sizing import sizes_of
from recon_cli.checkpoints.prefixes import Unprefixed
from recon_cli.errors import ReconError, number

FlowOf: TypeAlias = Callable[[tuple[str, ...]], Dataflow | None]
"""Tells a network's data flow for some tasks."""


@dataclass(frozen=True)
class Decision:
    """What is done to a checkpoint.

    :ivar plan: where its tensors go.
    :ivar parameters: which of them are parameters, in the checkpoint's order, a tied one once.
    :ivar cost: what it costs in operations, if that is known.
    :ivar untouched: layers of the checkpoint that the ranking does not know; they stay as they are.
    :ivar without_conflicts: split layers whose score is 0.
    """

    plan: BranchingPlan
    parameters: tuple[str, ...]
    sizes: Sizes
    selection: Selection
    cost: BranchingCost | None = None
    untouched: tuple[str, ...] = ()
    without_conflicts: tuple[str, ...] = ()


def decide(request: SplitRequest, source: Unprefixed, flow_of: FlowOf) -> Decision:
    """Decide what is done to an open checkpoint.

    :param flow_of: tells the data flow of the network that is split, if it is known.
    :raises ReconError: for whatever would make the split fail.
    """
    ranking = request.ranking
    check_unbranched(source, request.checkpoint)
    tasks = tasks_of(request)
    parameters = ParameterTable(source, ranking)
    untouched = check_ranking(ranking, parameters, request.checkpoint) if ranking else ()
    choice = choose(request.selection, ranking, parameters, tasks)
    flow = flow_of(tasks)
    layers = _allowed(choice, request.limit, flow, source.ties)
    plan = plan_branching(parameters.tensors, layers, tasks, parameters.layers)
    check_ties(plan, source.ties)
    idle = {layer.name for layer in ranking.layers if layer.score == 0} if ranking else set()
    return Decision(
        plan=plan,
        parameters=tuple(parameters.own),
        sizes=sizes_of(parameters, plan, ranking, choice.wanted_parameters),
        selection=_selection(request, [layer.name for layer in choice.layers if layer not in layers]),
        cost=None if flow is None else cost_of(flow, layers, source.ties),
        untouched=untouched,
        without_conflicts=tuple(layer.name for layer in plan.layers if layer.name in idle),
    )


def _allowed(
    choice: Choice, limit: CostLimit | None, flow: Dataflow | None, ties: Mapping[str, str]
) -> tuple[SplitLayer, ...]:
    if limit is None:
        return choice.layers
    if flow is None:
        raise ReconError(
            f"--max-cost {number(limit.ratio)} is given, but what the split costs in operations is not known",
            "pass `--ranking` with a ranking of what `recon profile` measured; it can stand beside `--layers`",
        )
    return within_limit(choice, limit, flow, ties)


def _selection(request: SplitRequest, left_out: Sequence[str]) -> Selection:
    wish = request.selection
    return Selection(
        policy=wish.policy,
        argument=wish.argument,
        granularity=wish.granularity,
        seed=wish.drawn_with,
        ranking_digest=None if request.ranking is None else digest_bytes(request.ranking.to_bytes()),
        max_cost=None if request.limit is None else request.limit.ratio,
        left_out=tuple(left_out),
    )
