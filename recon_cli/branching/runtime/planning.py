"""Plans for a network: that of a manifest, checked against it, or one that is made from the network itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from recon_cli.artifacts.manifest import Manifest, SplitLayer, SplitPlan, SplitStatistics
from recon_cli.branching.plan import BranchingPlan, check_ties, plan_branching, split_per_task
from recon_cli.branching.statistics import own_statistics
from recon_cli.checkpoints.state_dict import tied_groups
from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.layers.discovery import discover_layers
from recon_cli.tasks import check_tasks


def branching_plan(
    model: nn.Module, layers: Sequence[str | SplitLayer], tasks: Sequence[str], /, *args: Any, **kwargs: Any
) -> BranchingPlan:
    """Plan the split of a network that is at hand, without a checkpoint or a ranking.

    With an example batch, the network runs once in the mode in which it is, and leaves no trace; what it moves then
    behind a split layer, such as the running statistics of a BatchNorm, every stream gets its own of. So call
    `model.train()` before. Without one, all that is not split stays shared.

    :param layers: the names of layers that get a copy for every task, or layers with other branches.
    :param tasks: the tasks, in the order of the network's outputs.
    :param args: the example batch, as the network takes it, with `kwargs`.
    :returns: what :func:`recon_cli.branch` and :func:`recon_cli.branching.programs.exported.fork_program` take.
    :raises ReconError: if there is no such layer, or what the network does cannot be followed.
    """
    tasks = check_tasks(tasks)
    known = {name: layer for layer in discover_layers(model) for name in (layer.name, *layer.aliases)}
    split: dict[str, SplitLayer] = {}
    for each in layers:
        if isinstance(each, SplitLayer):
            split[each.name] = each
        elif each not in known:
            raise ReconError(f"the model has no layer {quoted(each)}", did_you_mean(each, known))
        else:
            split[known[each].name] = split_per_task(known[each].name, known[each].aliases, tasks)
    state = model.state_dict(keep_vars=True)
    ties = {name: group[0] for group in tied_groups(state) for name in group[1:]}
    statistics = None
    if args or kwargs:
        from recon_cli.dataflow.recording import dataflow_of

        statistics = own_statistics(dataflow_of(model, tasks, *args, **kwargs), list(split.values()), state, ties)
    plan = plan_branching(state, list(split.values()), tasks, statistics=statistics)
    check_ties(plan, ties)
    return plan


def plan_for(model: nn.Module, manifest: Manifest | SplitPlan) -> BranchingPlan:
    """The plan of a manifest, or of what is yet to be split, checked against the network that it is to be applied to.

    :raises ReconError: naming what differs.
    """
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ReconError("the model has lazy modules without shapes", "run it on one batch before it is branched")
    state = model.state_dict(keep_vars=True)
    groups = tied_groups(state)
    records = {record.key: record for record in manifest.tensors}
    missing = [key for key in records if key not in state]
    # A checkpoint may leave out all names of a tied tensor but one.
    named = {name for group in groups if any(name in records for name in group) for name in group}
    unexpected = [key for key in state if key not in records and key not in named]
    if missing or unexpected:
        parts = [f"the model lacks {listed(missing)}"] if missing else []
        parts += [f"the manifest does not know {listed(unexpected)}"] if unexpected else []
        raise ReconError(f"the manifest is of another model: {'; '.join(parts)}")
    for key, record in records.items():
        if tuple(state[key].shape) != record.shape:
            raise ReconError(
                f"the manifest is of another model: {quoted(key)} has the shape {record.shape} there, "
                f"the model's {tuple(state[key].shape)}"
            )
    statistics = _under_all_names(manifest.statistics, groups)
    plan = plan_branching(state, manifest.layers, manifest.tasks, statistics=statistics)
    check_ties(plan, {name: group[0] for group in groups for name in group[1:]})
    for key, record in records.items():
        if plan.places[key] != record.places:
            raise ReconError(
                f"the manifest puts {quoted(key)} at {listed(record.places)}, "
                f"but in this model it would be at {listed(plan.places[key])}"
            )
    return plan


def _under_all_names(
    statistics: Sequence[SplitStatistics] | None, groups: Iterable[Sequence[str]]
) -> tuple[SplitStatistics, ...] | None:
    """Statistics with all names that a network has for their buffers, of which a checkpoint may leave out some."""
    others = {name: group for group in groups for name in group}
    if statistics is None:
        return None
    return tuple(
        each.model_copy(
            update={"buffers": tuple(dict.fromkeys(name for key in each.buffers for name in others.get(key, (key,))))}
        )
        for each in statistics
    )
