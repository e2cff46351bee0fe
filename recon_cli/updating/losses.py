"""The losses that somebody's own loop hands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from recon_cli.errors import ReconError, listed, quoted


def losses_by_task(losses: Mapping[str, torch.Tensor | None], tasks: Sequence[str]) -> dict[int, torch.Tensor]:
    """The losses of the tasks that have one, by the task's index.

    :raises ReconError: if a task is not known, none has a loss, or a loss is no scalar.
    """
    if not isinstance(losses, Mapping):
        raise ReconError(f"the losses are a {quoted(type(losses).__name__)}, but a mapping from task to loss is needed")
    unknown = [task for task in losses if task not in tasks]
    if unknown:
        raise ReconError(f"the losses name {listed(unknown)}, which is none of the tasks {listed(tasks)}")
    given = {index: loss for index, task in enumerate(tasks) if (loss := losses.get(task)) is not None}
    if not given:
        raise ReconError("no task has a loss in this step")
    for index, loss in given.items():
        if not isinstance(loss, torch.Tensor):
            raise ReconError(
                f"the loss of task {quoted(tasks[index])} is a {quoted(type(loss).__name__)}; a scalar tensor is needed"
            )
        if loss.dim() != 0:
            raise ReconError(
                f"the loss of task {quoted(tasks[index])} has the shape {tuple(loss.shape)}; a scalar is needed",
                "take its mean: `loss.mean()`",
            )
    return given


def check_differentiable(losses: Mapping[int, torch.Tensor], tasks: Sequence[str]) -> None:
    """Refuse losses that nothing can be learned from.

    :raises ReconError: naming the first of their tasks.
    """
    for index, loss in losses.items():
        if not loss.requires_grad:
            raise ReconError(
                f"the loss of task {quoted(tasks[index])} depends on no trainable parameter",
                "pass the loss itself, not a detached value",
            )
