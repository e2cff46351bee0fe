"""The loss of each task on a batch, or a sentence that says why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from recon_cli.config.schema import TaskSection
from recon_cli.errors import NonFiniteError, ReconError, did_you_mean, quoted
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.targets import find_target, user_code
from recon_cli.outputs import output_of


@dataclass(frozen=True)
class Task:
    """A task: its name among the network's outputs, its loss, and where a batch holds its label.

    :ivar partial: whether the label's key may be missing from a batch.
    """

    name: str
    loss: Callable[..., Any]
    label: str | int
    arguments: dict[str, Any]
    partial: bool = False

    @classmethod
    def from_section(cls, section: TaskSection) -> Task:
        """Look up what a config names.

        :raises ReconError: if there is no such loss.
        """
        return cls(section.name, _find_loss(section.loss.target), section.label, section.loss.kwargs, section.partial)

    def loss_on(self, output: Any, label: Any) -> torch.Tensor:
        """The task's loss, a scalar that can be differentiated, where gradients are recorded.

        :raises ReconError: if the loss function fails or gives something else.
        """
        with user_code(f"the loss of task {quoted(self.name)}"):
            loss = self.loss(output, label, **self.arguments)
        if not isinstance(loss, torch.Tensor):
            kind = quoted(type(loss).__name__)
            raise ReconError(f"the loss of task {quoted(self.name)} is a {kind}; a scalar tensor was expected")
        if loss.dim() != 0:
            shape = tuple(loss.shape)
            raise ReconError(
                f"the loss of task {quoted(self.name)} is a tensor of shape {shape}; a scalar was expected"
            )
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise ReconError(f"the loss of task {quoted(self.name)} depends on no trainable parameter")
        return loss


def labels_of(batch: Batch, tasks: Sequence[Task], active: Sequence[int]) -> dict[int, Any]:
    """The labels of a batch, by the indices of the tasks that have one.

    :param active: the indices of the tasks that are asked for.
    :raises ReconError: if the batch has not the form that the tasks name.
    """
    labels = {}
    for index in active:
        task = tasks[index]
        label = batch.label(task.name, task.label, partial=task.partial)
        if label is not None:
            labels[index] = label
    return labels


def task_outputs(model: torch.nn.Module, tasks: Sequence[Task], batch: Batch, wanted: Iterable[int]) -> dict[int, Any]:
    """One forward pass, and the outputs of some tasks by their indices.

    :raises ReconError: if the model fails, or one of them has no output.
    """
    names = [task.name for task in tasks]
    with user_code("the model"):
        output = batch.call(model)
        return {index: output_of(output, names, names[index]) for index in wanted}


def task_losses(
    model: torch.nn.Module, tasks: Sequence[Task], batch: Batch, active: Sequence[int]
) -> dict[int, torch.Tensor]:
    """One forward pass, and the loss of every task that has a label in the batch.

    :param active: the indices of the tasks that take part.
    :returns: a scalar for each of those tasks, by its index, in order.
    :raises ReconError: if the model or a loss fails, a task with a label has no output, or no task has a label.
    """
    labels = labels_of(batch, tasks, active)
    if not labels:
        of = "any of the tasks" if len(active) > 1 else f"the task {quoted(tasks[active[0]].name)}"
        raise ReconError(f"a batch has no label for {of}", "leave such batches out of the data")
    return losses_of(model, tasks, batch, labels)


def losses_of(
    model: torch.nn.Module, tasks: Sequence[Task], batch: Batch, labels: Mapping[int, Any]
) -> dict[int, torch.Tensor]:
    """One forward pass, and the losses of some tasks.

    :param labels: theirs, by the tasks' indices.
    :returns: a scalar for each of those tasks, by its index, in order.
    :raises ReconError: if the model or a loss fails, or a task has no output.
    """
    outputs = task_outputs(model, tasks, batch, labels)
    return {index: tasks[index].loss_on(outputs[index], label) for index, label in labels.items()}


def check_finite(losses: Sequence[torch.Tensor], tasks: Sequence[str], iteration: int) -> list[float]:
    """Refuse losses that are NaN or infinite.

    :param iteration: the iteration, counted from 0.
    :returns: their values.
    :raises NonFiniteError: naming the task and the iteration.
    """
    # One transfer for all losses: each would stop the device.
    values = torch.stack([loss.detach() for loss in losses]).tolist()
    for task, value in zip(tasks, values, strict=True):
        if value - value != 0:
            raise NonFiniteError(
                f"the loss of task {quoted(task)} became {value} in iteration {iteration + 1}",
                "lower the learning rate, or look at that task's labels",
            )
    return values


def _find_loss(target: str) -> Callable[..., Any]:
    if ":" in target:
        return find_target(target)
    found = getattr(F, target, None)
    if not callable(found):
        known = [name for name in dir(F) if callable(getattr(F, name)) and not name.startswith("_")]
        raise ReconError(
            f"torch.nn.functional has no function {quoted(target)}",
            did_you_mean(target, known) or "name your own loss as package.module:function",
        )
    return found  # type: ignore[no-any-return]
