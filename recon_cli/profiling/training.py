"""The training that is profiled: steps with the mean of the losses, some of which are measured on the way."""

from __future__ import annotations

import torch

from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.losses import check_finite, task_losses
from recon_cli.experiment.targets import user_code
from recon_cli.profiling.engine import GramEngine
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.sampling import Sampling


class JointTraining:
    """Joint training, step by step.

    :param experiment: what is trained.
    :param measurement: is filled; if a step fails, it holds all steps before.
    :param sampling: which steps are measured; the others are plain steps without hooks.
    :ivar step: the steps made.
    :ivar labelled: the indices of the tasks that had a label in some step.
    :ivar measured: the indices of those that had one in a measured step.
    """

    def __init__(self, experiment: Experiment, measurement: Measurement, sampling: Sampling) -> None:
        self._experiment = experiment
        self._measurement = measurement
        self._sampling = sampling
        self._engine = GramEngine(experiment.model, measurement.tallied)
        self._batches = iter(experiment.batches)
        self._saw_all = False
        self.step = 0
        self.labelled: set[int] = set()
        self.measured: set[int] = set()

    def advance(self) -> None:
        """Make one step.

        :raises ReconError: if a loss is not finite, no layer is shared, or the user's code fails.
        """
        batch = next(self._batches)
        if self._sampling.includes(self.step):
            self._measure(batch)
        else:
            self._train(batch)
        with user_code("the optimizer's step"):
            self._experiment.optimizer.step()
        self.step += 1

    def _train(self, batch: Batch) -> None:
        losses = self._losses(batch)
        with user_code("the backward pass"):
            self._experiment.model.zero_grad()
            torch.autograd.backward(torch.stack([*losses.values()]).mean())

    def _measure(self, batch: Batch) -> None:
        measurement = self._measurement
        with self._engine.watching():
            losses = self._losses(batch)
        with user_code("the backward pass"):
            found = self._engine.backward([*losses.values()])
        measurement.record(found, self._sampling.stage(self.step, measurement.settings.stages), [*losses])
        if len(losses) == len(measurement.tasks) and not self._saw_all:
            # Only now is it certain that no two tasks share a layer.
            measurement.check_shared()
            self._saw_all = True
        self.measured |= losses.keys()
        self._engine.combine(
            torch.full((len(losses),), 1 / len(losses), dtype=torch.float64, device=found.grams.device)
        )

    def _losses(self, batch: Batch) -> dict[int, torch.Tensor]:
        losses = task_losses(self._experiment.model, self._experiment.tasks, batch)
        check_finite([*losses.values()], [self._measurement.tasks[index] for index in losses], self.step)
        self.labelled |= losses.keys()
        return losses
