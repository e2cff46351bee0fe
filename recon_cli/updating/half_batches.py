"""What the tasks' gradients are on each half of a batch, of which nothing is left in the network or its training."""

from __future__ import annotations

import torch

from recon_cli.errors import ReconError
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.halving import Half, halved
from recon_cli.experiment.losses import labels_of, losses_of
from recon_cli.experiment.ranks import Ranks
from recon_cli.experiment.targets import user_code
from recon_cli.gradients.engine import GramEngine, LayerGrams
from recon_cli.network_states import leaving_no_trace
from recon_cli.updating.ways.way import Measured


class HalfBatches:
    """Measures the gradients of the tasks' losses on each half of a batch by itself.

    Each half has a forward pass of its own, so that neither normalisation nor dropout ties them together. Buffers,
    `.grad` and all random numbers to come are afterwards as before.

    :param experiment: the network and its T tasks.
    :param measured: the layers.
    :param ranks: the processes that train the network together; a gradient is its mean over their first halves, or over
        their second ones.
    :raises ReconError: if the network is sharded.
    """

    def __init__(self, experiment: Experiment, measured: Measured, ranks: Ranks) -> None:
        if experiment.is_sharded:
            raise ReconError(
                "halves of batches cannot be measured on a network that is sharded over several devices",
                "leave out `halves_every` under `profile`, or `train.sharded`",
            )
        self._experiment = experiment
        self._ranks = ranks
        self._engine = GramEngine(experiment.model, measured.layers, measured.memory_limit)

    def measure(self, batch: Batch, scale: float) -> LayerGrams | None:
        """The Gram matrices of 2T gradients: those of all tasks on the first half, and then those on the second one.

        :param scale: what the losses are multiplied by for the backward passes, against underflow.
        :returns: of the scaled losses, with zeros for tasks without a label; None if a rank has not two items.
        :raises ReconError: if the batch cannot be halved, or the user's code fails.
        """
        experiment, ranks = self._experiment, self._ranks
        with ranks.together():
            halves = halved(batch, labels_of(batch, experiment.tasks, experiment.active))
        if ranks.highest(int(halves is None)) or halves is None:
            return None
        with leaving_no_trace(experiment.model):
            with ranks.together(), self._engine.watching():
                losses = [loss for half in halves for loss in self._losses(half, scale)]
            with user_code("the backward pass"):
                return self._engine.measure(losses)

    def _losses(self, half: Half, scale: float) -> list[torch.Tensor | None]:
        experiment = self._experiment
        try:
            with experiment.optimization.forward():
                found = losses_of(experiment.model, experiment.tasks, half.batch, half.labels)
        except ReconError as error:
            raise ReconError(
                f"on the half of a batch: {error.message}",
                error.hint or "leave out `halves_every` under `profile` if the network cannot take fewer items",
            ) from error
        # None for a task that other ranks alone may have.
        return [found[task] * scale if task in found else None for task in range(len(experiment.tasks))]
