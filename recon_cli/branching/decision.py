"""Deciding what is done to a checkpoint: everything is checked here, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.manifest import Selection, Sizes
from recon_cli.artifacts.ranking import Ranking
from recon_cli.branching.choosing import choose
from recon_cli.branching.matching import check_ranking, check_unbranched, tasks_of
from recon_cli.branching.parameters import ParameterTable
from recon_cli.branching.plan import BranchingPlan, check_ties, plan_branching
from recon_cli.branching.requests import SelectionRequest, SplitRequest
from recon_cli.branching.sizing import sizes_of
from recon_cli.checkpoints.prefixes import Unprefixed


@dataclass(frozen=True)
class Decision:
    """What is done to a checkpoint.

    :ivar plan: where its tensors go.
    :ivar parameters: which of them are parameters, in the checkpoint's order, a tied one once.
    :ivar untouched: layers of the checkpoint that the ranking does not know; they stay as they are.
    :ivar without_conflicts: split layers whose score is 0.
    """

    plan: BranchingPlan
    parameters: tuple[str, ...]
    sizes: Sizes
    selection: Selection
    untouched: tuple[str, ...] = ()
    without_conflicts: tuple[str, ...] = ()


def decide(request: SplitRequest, source: Unprefixed) -> Decision:
    """Decide what is done to an open checkpoint.

    :raises ReconError: for whatever would make the split fail.
    """
    ranking = request.ranking
    check_unbranched(source, request.checkpoint)
    tasks = tasks_of(request)
    parameters = ParameterTable(source, ranking)
    untouched = check_ranking(ranking, parameters, request.checkpoint) if ranking else ()
    choice = choose(request.selection, ranking, parameters, tasks)
    plan = plan_branching(parameters.tensors, choice.layers, tasks, parameters.layers)
    check_ties(plan, source.ties)
    idle = {layer.name for layer in ranking.layers if layer.score == 0} if ranking else set()
    return Decision(
        plan=plan,
        parameters=tuple(parameters.own),
        sizes=sizes_of(parameters, plan, ranking, choice.wanted_parameters),
        selection=_selection(request.selection, ranking),
        untouched=untouched,
        without_conflicts=tuple(layer.name for layer in plan.layers if layer.name in idle),
    )


def _selection(wish: SelectionRequest, ranking: Ranking | None) -> Selection:
    return Selection(
        policy=wish.policy,
        argument=wish.argument,
        granularity=wish.granularity,
        seed=wish.drawn_with,
        ranking_digest=None if ranking is None else digest_bytes(ranking.to_bytes()),
    )
