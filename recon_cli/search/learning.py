"""What the stages of all searches have in common: steps of the weights and of alpha, on batches of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from recon_cli.artifacts.search import SearchStage
from recon_cli.config.schema import Config
from recon_cli.experiment.batches import Batch, Batches
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.losses import check_finite, task_losses
from recon_cli.experiment.optimization import Optimization
from recon_cli.experiment.targets import user_code
from recon_cli.search.supernet import Supernet


@dataclass(frozen=True)
class Material:
    """What a search learns from.

    :ivar experiment: the network's tasks, and batches of training data.
    :ivar validation: batches of validation data; None if the method needs none.
    """

    config: Config
    experiment: Experiment
    validation: Batches | None


class Learning(ABC):
    """A stage of a search: learns a supernet's weights and its alpha, by the mean of the tasks' losses.

    :param alpha_lr: of the Adam that alpha is learned by.
    :param alpha_decay: its weight decay.
    :ivar step: the steps made.
    """

    def __init__(self, material: Material, supernet: Supernet, *, alpha_lr: float, alpha_decay: float) -> None:
        self._material = material
        self._tasks = material.experiment.tasks
        self._names = tuple(task.name for task in self._tasks)
        self._supernet = supernet
        # The weights have no schedule, as it would be one for the length of another training.
        config = material.config.model_copy(update={"scheduler": None})
        self._weights = Optimization(config, supernet, material.experiment.device)
        with supernet.with_alpha() as alphas:
            self._alphas = torch.optim.Adam(alphas, lr=alpha_lr, weight_decay=alpha_decay)
        supernet.train()
        self.step = 0

    @abstractmethod
    def advance(self) -> None:
        """Make a step.

        :raises ReconError: if a loss is not finite, or the user's code fails.
        """

    @abstractmethod
    def record(self) -> SearchStage:
        """What was learned."""

    @abstractmethod
    def _backward(self, batch: Batch, share: float) -> bool:
        """Add the gradient of a batch's update to `.grad`.

        :param share: the batch's part of the step.
        :returns: whether it is finite.
        """

    def _penalty(self) -> torch.Tensor | None:
        """What is added to the loss that alpha is learned by, if anything."""
        return None

    def _learn_alpha(self) -> None:
        """Update alpha on a batch of validation data, the weights fixed."""
        assert self._material.validation is not None
        batch = next(self._material.validation)
        with self._supernet.learning_alpha() as alphas:
            losses = self._losses(batch, self._supernet.choosing)
            with user_code("the backward pass"):
                loss = self._scaled(losses, self._penalty())
                gradients = torch.autograd.grad(loss, alphas, allow_unused=True)
            for alpha, gradient in zip(alphas, gradients, strict=True):
                alpha.grad = gradient
            self._step_alpha(alphas, self._weights.scale)

    def _learn_weights(self) -> None:
        """Update the weights on as many batches of training data as make a step."""
        for parameter in self._supernet.parameters():
            parameter.grad = None
        batches = [next(self._material.experiment.batches) for _ in range(self._weights.accumulate)]
        if all(self._backward(batch, 1 / len(batches)) for batch in batches):
            self._weights.step()
        else:
            self._weights.skip()

    def _scaled(self, losses: Sequence[torch.Tensor], penalty: torch.Tensor | None) -> torch.Tensor:
        """The loss, as it is differentiated."""
        loss = torch.stack([*losses]).mean()
        return (loss if penalty is None else loss + penalty) * self._weights.scale

    def _step_alpha(self, alphas: Sequence[nn.Parameter], scale: float) -> None:
        """Move alpha by its gradients, which are those of losses times the scale."""
        for alpha in alphas:
            if alpha.grad is not None:
                alpha.grad /= scale
        # A scaler's factor that is too large is lowered by the steps of the weights.
        if all(alpha.grad is None or bool(alpha.grad.isfinite().all()) for alpha in alphas):
            self._alphas.step()

    def _losses(self, batch: Batch, active: Sequence[int]) -> list[torch.Tensor]:
        with self._weights.forward():
            losses = task_losses(self._supernet, self._tasks, batch, active)
        check_finite([*losses.values()], [self._names[index] for index in losses], self.step)
        return [*losses.values()]
