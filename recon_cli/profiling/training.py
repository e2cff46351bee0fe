"""The training that is profiled: steps by an update rule, some of which are measured on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.method import JOINT, Method
from recon_cli.dataflow.recording import copied, record
from recon_cli.errors import ReconError, listed
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.losses import check_finite, task_losses
from recon_cli.experiment.ranks import ALONE, Ranks
from recon_cli.experiment.targets import user_code
from recon_cli.gradients.engine import LayerGrams
from recon_cli.profiling.cosine_log import CosineLog
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.sampling import Sampling
from recon_cli.random_states import random_states, set_random_states
from recon_cli.updating.stepper import Stepper
from recon_cli.updating.ways.way import Measured


class ProfiledTraining:
    """Training, step by step.

    :param experiment: what is trained.
    :param measurement: is filled; if a step fails, it holds all steps before.
    :param sampling: which steps are measured; the others are plain steps without hooks.
    :param log: takes the cosines of every measured step, if they are to be kept.
    :param ranks: the processes that train the network together, each on its own batches. The loss of a task is the mean
        over those that have it.
    :param method: the update rule, and what it sees.
    :param seed: of rules that draw random numbers.
    :param memory_limit: bytes that the gradients of several tasks may take at a time; see `GramEngine`.
    :param written: the network as it was written, whose data flow is recorded; None if it is what is trained.
    :ivar step: the steps made.
    :ivar labelled: the indices of the tasks that had a label in some step.
    :ivar measured: the indices of those that had one in a measured step.
    :ivar flow: the network's data flow, known from the first step on unless it could not be recorded.
    :ivar flow_fault: why it could not.
    """

    def __init__(
        self,
        experiment: Experiment,
        measurement: Measurement,
        sampling: Sampling,
        log: CosineLog | None = None,
        ranks: Ranks = ALONE,
        *,
        method: Method = JOINT,
        seed: int = 0,
        memory_limit: int | None = None,
        written: nn.Module | None = None,
    ) -> None:
        self._experiment = experiment
        self._written = experiment.model if written is None else written
        self._measurement = measurement
        self._sampling = sampling
        self._log = log
        self._ranks = ranks
        self._stepper = Stepper(
            experiment.model,
            measurement.tasks,
            method,
            measured=Measured(measurement.tallied, measurement.settings.features, memory_limit),
            seed=seed,
        )
        self._saw_all = False
        self.step = 0
        self.labelled: set[int] = set()
        self.measured: set[int] = set()
        self.flow: Dataflow | None = None
        self.flow_fault: str | None = None

    def advance(self) -> None:
        """Make one step.

        :raises ReconError: if a loss is not finite, no layer is shared, or the user's code fails.
        """
        measured = self._sampling.includes(self.step)
        # Before the forward pass, which then has their memory.
        self._experiment.model.zero_grad()
        with self._ranks.together():
            batch = self._next_batch()
            if self.step == 0:
                # On every rank: a layer may wait for the others.
                self._record(batch)
            with self._stepper.forward(measured=measured):
                losses = self._losses(batch)
        with user_code("the backward pass"):
            found, step = self._stepper.backward(losses, measured=measured)
        self.labelled |= set(step.present)
        if found is not None:
            self._measure(found, step.present)
        with user_code("the optimizer's step"):
            self._experiment.optimizer.step()
        self._stepper.after_step(lambda: task_losses(self._experiment.model, self._experiment.tasks, batch))
        self.step += 1

    @property
    def notes(self) -> Mapping[str, int]:
        """What the update rule had to say of steps, and of how many."""
        return self._stepper.notes

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on; plain data and tensors, which are the training's own."""
        model = self._experiment.model
        return {
            "step": self.step,
            "labelled": sorted(self.labelled),
            "measured": sorted(self.measured),
            "saw_all": self._saw_all,
            "flow": None if self.flow is None else self.flow.model_dump_json(),
            "parameters": {name: parameter.detach() for name, parameter in model.named_parameters()},
            "buffers": dict(model.named_buffers()),
            "optimizer": self._experiment.optimizer.state_dict(),
            "method": self._stepper.state(),
            # What follows is each rank's own.
            "batches": self._ranks.share(self._experiment.batches.state()),
            "random": self._ranks.share(random_states()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another training of the same experiment was.

        :raises ReconError: if the network or the data is another one.
        """
        experiment = self._experiment
        self._restore_parameters(state["parameters"])
        _restore_buffers(experiment.model, state["buffers"])
        with user_code("the restoring of the optimizer's state"):
            experiment.optimizer.load_state_dict(state["optimizer"])
        self._stepper.restore(state["method"])
        self.step, self._saw_all = state["step"], state["saw_all"]
        self.labelled, self.measured = set(state["labelled"]), set(state["measured"])
        self.flow = None if state["flow"] is None else Dataflow.model_validate_json(state["flow"])
        experiment.batches.restore(state["batches"][self._ranks.rank])
        set_random_states(state["random"][self._ranks.rank])

    def _restore_parameters(self, saved: Mapping[str, torch.Tensor]) -> None:
        own = dict(self._experiment.model.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
        saved_shapes = {name: tuple(value.shape) for name, value in saved.items()}
        changed = sorted(name for name in own.keys() | saved.keys() if shapes.get(name) != saved_shapes.get(name))
        if changed:
            raise ReconError(f"the network is not that of the run to go on with: {listed(changed)} is another one")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(saved[name])

    def _record(self, batch: Batch) -> None:
        """Record the data flow of the network, which stays as it is; a profile does not depend on it."""
        try:
            with user_code("the model"):
                own = Batch(copied(batch.inputs), None)
                self.flow = record(self._written, self._measurement.tasks, lambda: own.call(self._written))
        except ReconError as error:
            self.flow_fault = error.message

    def _next_batch(self) -> Batch:
        batches = self._experiment.batches
        restarts = batches.restarts
        batch = next(batches)
        if batches.restarts > restarts:
            self._stepper.after_epoch()
        return batch

    def _measure(self, found: LayerGrams, present: Sequence[int]) -> None:
        measurement = self._measurement
        if len(present) == len(measurement.tasks):
            measurement.check_features(found)
        stage = self._sampling.stage(self.step, measurement.settings.stages)
        rows = measurement.record(found, stage, present)
        if self._log is not None:
            self._log.append(rows, self.step, stage)
        if len(present) == len(measurement.tasks) and not self._saw_all:
            # Only now is it certain that no two tasks share a layer.
            measurement.check_shared()
            self._saw_all = True
        self.measured |= set(present)

    def _losses(self, batch: Batch) -> dict[int, torch.Tensor]:
        losses = task_losses(self._experiment.model, self._experiment.tasks, batch)
        check_finite([*losses.values()], [self._measurement.tasks[index] for index in losses], self.step)
        return losses


def _restore_buffers(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    own = dict(model.named_buffers())
    for name, value in saved.items():
        if name in own and (own[name].shape, own[name].dtype) == (value.shape, value.dtype):
            own[name].copy_(value)
        else:
            # A buffer that came or grew while the network trained.
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._buffers[leaf] = value.to(next(model.parameters()).device)
