"""The gradients of every task, from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Gradients = Sequence[torch.Tensor | None]
"""One gradient for each parameter; None where the task's loss does not reach it."""


def task_gradients(losses: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]) -> list[Gradients]:
    """The gradient of each loss with respect to each parameter.

    :param losses: T scalars of one graph; the graph is freed with the last of them.
    :param parameters: P parameters that require gradients.
    :returns: T sequences of P gradients.
    """
    last = len(losses) - 1
    return [
        torch.autograd.grad(loss, parameters, retain_graph=index < last, allow_unused=True)
        for index, loss in enumerate(losses)
    ]


def assign_joint_gradient(parameters: Sequence[torch.Tensor], gradients: Sequence[Gradients]) -> None:
    """Fill `.grad` with the gradient of the mean of the losses (joint training with equal weights).

    By linearity it is the mean of the task gradients, so no further backward pass is needed. A parameter that no task
    reaches gets None, as after `backward()`.
    """
    tasks = len(gradients)
    for index, parameter in enumerate(parameters):
        reached = [own[index] for own in gradients]
        found = [gradient for gradient in reached if gradient is not None]
        parameter.grad = _sum(found) / tasks if found else None


def _sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
