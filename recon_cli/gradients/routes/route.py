"""What all routes have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.autograd.graph import GradientEdge

from recon_cli.gradients.graph import Node
from recon_cli.gradients.routes.memory import RowMemory

Target = torch.Tensor | GradientEdge

ParameterWeights = Callable[[torch.Tensor], torch.Tensor]
"""From a parameter to the weights of its task gradients, [T], on its device."""


@dataclass(frozen=True)
class ParameterGram:
    """The Gram matrix of one parameter.

    :ivar gram: float64, [n, n], of the n tasks that reach the parameter.
    :ivar tasks: which those are.
    """

    parameter: torch.Tensor
    gram: torch.Tensor
    tasks: list[int]


class Route(ABC):
    """How the gradients of one parameter (and its layer's bias) are held and multiplied in one step.

    :ivar targets: what the gradients are asked for, in every task's backward pass.
    :ivar sources: for each target, the nodes of the graph that a part of its gradient comes from.
    :ivar parameters: the parameters whose gradients this route gives.
    :ivar memory: where rows are taken from.
    """

    targets: Sequence[Target]
    sources: Sequence[Sequence[Node]]
    parameters: Sequence[torch.Tensor]

    def __init__(self) -> None:
        self.memory = RowMemory()

    @abstractmethod
    def bytes_held(self) -> dict[Node, int]:
        """How much memory the rows of all tasks take, by the first node that fills them."""

    @abstractmethod
    def keep(self, task: int, target: int, gradient: torch.Tensor) -> None:
        """Take one task's gradient of one of the targets, or the next part of it."""

    @abstractmethod
    def grams(self) -> list[ParameterGram]:
        """Multiply: the Gram matrices of the parameters that any task reaches."""

    @abstractmethod
    def combine(self, weights: torch.Tensor) -> list[torch.Tensor | None]:
        """The weighted sum of the task gradients for each of the parameters; None where no task reaches it.

        :param weights: [T].
        """


def pick(weights: torch.Tensor, tasks: Sequence[int]) -> torch.Tensor:
    """The weights of some tasks."""
    # Indexing with a list copies it to the device, which nearly always can be spared.
    return weights if list(tasks) == list(range(len(weights))) else weights[list(tasks)]


def fill(parameters: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None], *, accumulate: bool) -> None:
    """Leave gradients as `backward()` does.

    :param accumulate: whether to add to the gradients that are there.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if not accumulate or parameter.grad is None:
            parameter.grad = gradient
        elif gradient is not None and parameter.grad.is_sparse:
            parameter.grad = gradient + parameter.grad
        elif gradient is not None:
            parameter.grad += gradient
        if gradient is not None:
            # Optimizers that make their step within the backward pass wait for these.
            for hook in (parameter._post_accumulate_grad_hooks or {}).values():
                hook(parameter)
