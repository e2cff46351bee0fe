"""A network in which a rotation for each task is put behind a shared feature, for RotoGrad."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.artifacts.method import Method
from recon_cli.branching.plan import BranchingPlan, plan_branching, split_per_task
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.errors import ReconError, did_you_mean, quoted
from recon_cli.layers.names import TOKEN
from recon_cli.rules.registry import RULES
from recon_cli.tasks import check_tasks

_NAME = "rotations"


def rotated(model: nn.Module, tasks: Sequence[str], feature: str) -> RotatedModel:
    """Put a rotation for each task behind a module, whose output Z all tasks share: task k goes on with R_k Z.

    The network returns what `model` returns; at first the rotations turn nothing. All that comes before them is
    computed once. They are no parameters but buffers, `rotations.tasks.<task>`, which no optimizer moves: the rule
    `rotograd` does. Like the parameters of a lazy module they have no size at first, until there are gradients of Z.

    All other tensors are `model`'s own, under their names, so train one of the two networks, not both.

    :param model: any `nn.Module` that returns one output per task.
    :param tasks: the names of its tasks, in the order of its outputs.
    :param feature: the name of a module that returns one tensor: [batch, d], [batch, length, d], or [batch, d, height,
        width], where d is rotated.
    :raises ReconError: if there is no such module, or the network cannot be taken apart.
    """
    tasks = check_tasks(tasks)
    if isinstance(model, RotatedModel):
        raise ReconError(f"the network is rotated already, behind {quoted(model.rotated_feature)}")
    if isinstance(model, (BranchedModel, nn.parallel.DistributedDataParallel)):
        kind = "branched" if isinstance(model, BranchedModel) else "wrapped for several devices"
        raise ReconError(f"the network is {kind} already", "rotate it first")
    modules = dict(model.named_modules(remove_duplicate=False))
    if feature not in modules or not feature:
        raise ReconError(f"the network has no module {quoted(feature)}", did_you_mean(feature, modules))
    if isinstance(model, torch.jit.ScriptModule):
        raise ReconError("a TorchScript network cannot be rotated", "rotate the network that it was made from")
    if hasattr(model, _NAME):
        raise ReconError(f"the network has {quoted(_NAME)} already, which are to be called so", "rename them")
    device = next((parameter.device for parameter in model.parameters()), None)
    # Only while the network is branched; a buffer, because the code of a network may go through all of its modules.
    model.register_buffer(_NAME, torch.zeros(0, 0, device=device))
    try:
        plan = plan_branching(model.state_dict(keep_vars=True), [split_per_task(_NAME, (), tasks)], tasks)
        return RotatedModel(model, plan, feature)
    finally:
        del model._buffers[_NAME]


def rotated_for(model: nn.Module, tasks: Sequence[str], method: Method) -> nn.Module:
    """The network that a method trains: rotated, if its rule needs that and it names the feature."""
    rule = RULES.get(method.name)
    if rule is None or "rotations" not in rule.NEEDS or method.feature is None:
        return model
    return rotated(model, tasks, method.feature)


class RotatedModel(BranchedModel):
    """A network with a rotation for each task behind a feature; made by :func:`rotated`."""

    def __init__(self, model: nn.Module, plan: BranchingPlan, feature: str) -> None:
        # Modules have hooks, so that no graph would stand for their code.
        super().__init__(model, plan, "calls")
        self._asked = "auto"
        self._rotated_feature = feature
        (split,) = plan.layers
        self._branch_of = {task: split.branch_of(task) for task in plan.tasks}
        turn = _Turn(feature)
        # All tasks' passes call the same module, and what they call it for is known by whose pass it is.
        model.get_submodule(feature).register_forward_hook(turn, prepend=True)
        for view in self._views.values():
            for table in ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called"):
                vars(view)[table] = copy.copy(vars(view)[table])
            view.register_forward_pre_hook(turn.enter)
            view.register_forward_hook(turn.leave, always_call=True)

    @property
    def rotated_feature(self) -> str:
        """The name of the module behind which the rotations are."""
        return self._rotated_feature

    def rotation(self, task: str) -> torch.Tensor | None:
        """R of a task, [d, d], an orthogonal matrix; None as long as it turns nothing."""
        found = self._rotations[self._branch_of[task]]
        assert found is not None
        return found if len(found) else None

    def rotate(self, task: str, rotation: torch.Tensor) -> None:
        """Put another rotation in the place of a task's."""
        self._rotations[self._branch_of[task]] = rotation

    @property
    def _rotations(self) -> dict[str, torch.Tensor | None]:
        holder = self._modules[_NAME]
        assert holder is not None
        tasks = holder._modules[TOKEN]
        assert tasks is not None
        return tasks._buffers

    def _circumstances(self) -> tuple[object, ...]:
        sizes = (None if rotation is None else len(rotation) for rotation in self._rotations.values())
        return *super()._circumstances(), *sizes

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        rotations = self._rotations
        for branch, own in rotations.items():
            found = state_dict.get(f"{prefix}{_NAME}.{TOKEN}.{branch}")
            if found is not None and own is not None and found.shape != own.shape:
                rotations[branch] = torch.empty_like(found, device=own.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Turn:
    """Turns the output of a module by the rotation of the task whose pass it is; elsewhere it leaves it as it is.

    :param feature: the name of the module.
    """

    def __init__(self, feature: str) -> None:
        self._feature = feature
        self._view: nn.Module | None = None

    def enter(self, view: nn.Module, _: Any) -> None:
        """Begin the pass of a task."""
        self._view = view

    def leave(self, *_: Any) -> None:
        """End it."""
        self._view = None

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> torch.Tensor | None:
        """R Z, or None where nothing is to be turned."""
        if self._view is None:
            return None
        if not isinstance(output, torch.Tensor) or not output.is_floating_point() or output.dim() not in (2, 3, 4):
            is_tensor = isinstance(output, torch.Tensor)
            found = f"of the shape {tuple(output.shape)}" if is_tensor else f"a {quoted(type(output).__name__)}"
            raise ReconError(
                f"the output of module {quoted(self._feature)} cannot be rotated: it is {found}",
                "name a module that returns one tensor of real numbers, [batch, d], [batch, length, d], or [batch, d, "
                "height, width]",
            )
        rotation = self._view._buffers[_NAME]
        assert rotation is not None
        if len(rotation) == 0:
            return None
        rotation = rotation.to(output.dtype)
        # A convolution keeps the layout of images.
        return F.conv2d(output, rotation[:, :, None, None]) if output.dim() == 4 else F.linear(output, rotation)


def rotated_last(gradients: torch.Tensor) -> torch.Tensor:
    """Gradients of a feature, [n, *Z], as [n, positions, d], where d is rotated."""
    images = gradients.dim() == 5
    return (gradients.movedim(2, -1) if images else gradients).flatten(1, -2)
