"""One view of a network for each task: the network as it was written, on that task's copies of the split layers."""

from __future__ import annotations

import copy

import torch
from torch import nn

from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.runtime.parts import SplitParts
from recon_cli.branching.runtime.substitution import Substitution, modules_leading_to
from recon_cli.errors import ReconError, quoted


def make_views(model: nn.Module, plan: BranchingPlan, parts: SplitParts) -> dict[str, nn.Module]:
    """A network for every task: the user's own, on that task's copies of the split layers.

    :returns: task -> its view. The first branch of a layer has the layer's own tensors; modules of split layers are one
        object for all tasks of a branch.
    :raises ReconError: if a tensor or a module cannot be copied.
    """
    leading = modules_leading_to(model, parts.all_tensors())
    layers = frozenset(id(module) for module in parts.modules.values())
    copies = _copy_tensors(plan, parts)
    views: dict[str, nn.Module] = {}
    branch_modules: dict[tuple[str, str], nn.Module] = {}
    for task in plan.tasks:
        replaced = dict(copies[task])
        for name, module in parts.modules.items():
            made = branch_modules.get((name, parts.layers[name].branch_of(task)))
            if made is not None:
                replaced[id(module)] = made
        substitution = Substitution(replaced, leading, layers)
        try:
            views[task] = substitution.module(model)
        except RecursionError:
            raise ReconError("the model refers to itself too deeply to be taken apart") from None
        for name, module in parts.modules.items():
            branch_modules.setdefault((name, parts.layers[name].branch_of(task)), substitution.module(module))
    return views


def _copy_tensors(plan: BranchingPlan, parts: SplitParts) -> dict[str, dict[int, object]]:
    """For every task, the id of each tensor that is split -> the tensor that the task uses."""
    # One memo for all that the same tasks use, so that what is tied, also across layers, stays tied in the copy.
    memos: dict[tuple[str, ...], dict[int, object]] = {}
    copies: dict[str, dict[int, object]] = {task: {} for task in plan.tasks}
    for split in (*plan.layers, *(plan.statistics or ())):
        for number, own_branch in enumerate(split.branches):
            memo = memos.setdefault(own_branch.tasks, {})
            for name, tensor in parts.tensors[split.name]:
                copied = _copy(name, tensor, memo) if number else tensor
                for task in own_branch.tasks:
                    copies[task][id(tensor)] = copied
    return copies


def _copy(name: str, tensor: torch.Tensor, memo: dict[int, object]) -> torch.Tensor:
    try:
        return copy.deepcopy(tensor, memo)
    except RuntimeError as error:
        raise ReconError(f"the tensor {quoted(name)} cannot be copied: {str(error).splitlines()[0]}") from error
