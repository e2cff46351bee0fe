"""The first-order bi-level search: alpha on a validation batch, then the weights on a training batch (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from recon_cli.artifacts.search import SearchStage, TaskChoice
from recon_cli.config.schema import Config
from recon_cli.errors import NonFiniteError
from recon_cli.experiment.batches import Batch, Batches
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.losses import check_finite, task_losses
from recon_cli.experiment.optimization import Optimization
from recon_cli.experiment.targets import user_code
from recon_cli.gradients.engine import GramEngine
from recon_cli.layers.discovery import Layer
from recon_cli.search.candidates import SHARED, Candidates, branch_point
from recon_cli.search.chain import Chain
from recon_cli.search.noticing import Noticed

_ALPHA_DECAY = 1e-5
"""Weight decay of alpha's Adam, as in the authors' code."""


@dataclass(frozen=True)
class Material:
    """What a search learns from.

    :ivar experiment: the network's tasks, and batches of training data.
    :ivar validation: batches of validation data.
    """

    config: Config
    experiment: Experiment
    validation: Batches


class Stage:
    """Learns the choices between candidate paths.

    The loss is the mean of the tasks' losses; the joint update of the shared modules that are looked at is zero where
    conflict noticing says so, all else is updated as ever.

    :param looked_at: the places of the shared modules that are looked at, in the order of the chain.
    :ivar step: the steps made.
    """

    def __init__(self, material: Material, chain: Chain, candidates: Candidates, looked_at: Sequence[int]) -> None:
        self._material = material
        self._tasks = material.experiment.tasks
        self._names = tuple(task.name for task in self._tasks)
        self._candidates = candidates
        # The weights have no schedule, as it would be one for the length of another training.
        config = material.config.model_copy(update={"scheduler": None})
        self._weights = Optimization(config, candidates, material.experiment.device)
        with candidates.learning_alpha() as alphas:
            self._alphas = torch.optim.Adam(alphas, lr=config.search.alpha_lr, weight_decay=_ALPHA_DECAY)
        modules = [candidates.copy_of(place, SHARED) for place in looked_at]
        names = [chain.modules[place].name for place in looked_at]
        self._noticed = Noticed(names)
        self._engine = GramEngine(candidates, [_as_layer(*each) for each in zip(names, modules, strict=True)])
        self._place_of = {id(p): place for place, module in enumerate(modules) for p in module.parameters()}
        self.step = 0

    def advance(self) -> None:
        """Update alpha, then the weights.

        :raises ReconError: if a loss is not finite, or the user's code fails.
        """
        self._learn_alpha(next(self._material.validation))
        for parameter in self._candidates.parameters():
            parameter.grad = None
        batches = [next(self._material.experiment.batches) for _ in range(self._weights.accumulate)]
        if all(self._backward(batch, 1 / len(batches)) for batch in batches):
            self._weights.step()
        else:
            self._weights.skip()
        self.step += 1

    def record(self) -> SearchStage:
        """What was learned and noticed."""
        probabilities, chosen = self._candidates.probabilities(), self._candidates.chosen()
        return SearchStage(
            steps=self.step,
            choices=tuple(
                TaskChoice(
                    task=task,
                    points=tuple(branch_point(path) for path in self._candidates.paths[task]),
                    probabilities=tuple(of_task),
                    chosen=branch_point(chosen[task]),
                )
                for task, of_task in probabilities.items()
            ),
            conflicts=self._noticed.records(),
        )

    def _learn_alpha(self, batch: Batch) -> None:
        with self._candidates.learning_alpha() as alphas:
            choosing = [place for place, task in enumerate(self._names) if len(self._candidates.paths[task]) > 1]
            losses = self._losses(batch, choosing)
            scale = self._weights.scale
            with user_code("the backward pass"):
                loss = torch.stack(losses).mean() * scale
                gradients = torch.autograd.grad(loss, alphas, allow_unused=True)
            for alpha, gradient in zip(alphas, gradients, strict=True):
                alpha.grad = None if gradient is None else gradient / scale
            # A scaler's factor that is too large is lowered by the steps of the weights.
            if all(alpha.grad is None or bool(alpha.grad.isfinite().all()) for alpha in alphas):
                self._alphas.step()

    def _backward(self, batch: Batch, share: float) -> bool:
        """Add the gradient of a batch's update to `.grad`.

        :param share: the batch's part of the step.
        :returns: whether it is finite.
        """
        self._engine.watch()
        try:
            losses = self._losses(batch, range(len(self._tasks)))
        finally:
            self._engine.unwatch()
        scale = self._weights.scale
        with user_code("the backward pass"):
            found = self._engine.backward([loss * scale for loss in losses])
        if not bool(found.grams.isfinite().all()):
            if scale <= 1:
                raise NonFiniteError(
                    f"a gradient of a shared module became NaN or infinite in step {self.step + 1}",
                    "lower the learning rate",
                )
            return False
        updated = self._noticed.notice(found.grams).tolist()
        joint = torch.full((len(losses),), share / len(losses), dtype=torch.float64, device=found.grams.device)
        nothing = torch.zeros_like(joint)

        def weights(parameter: torch.Tensor) -> torch.Tensor:
            place = self._place_of.get(id(parameter))
            return joint if place is None or updated[place] else nothing

        self._engine.combine(weights, accumulate=True)
        return True

    def _losses(self, batch: Batch, active: Sequence[int]) -> list[torch.Tensor]:
        with self._weights.forward():
            losses = task_losses(self._candidates, self._tasks, batch, active)
        check_finite([*losses.values()], [self._names[index] for index in losses], self.step)
        return [*losses.values()]


def _as_layer(name: str, module: nn.Module) -> Layer:
    """A whole module as one layer, as conflicts are looked for in its gradient as one vector."""
    return Layer(name, type(module).__name__, (), dict(module.named_parameters()))
