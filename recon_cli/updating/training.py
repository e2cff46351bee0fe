"""Training, step by step: batches, losses, an update rule, the optimizer; some steps may be measured on the way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.method import JOINT, Method
from recon_cli.errors import NonFiniteError, ReconError, listed, quoted
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.flow import flow_on
from recon_cli.experiment.losses import check_finite, labels_of, task_losses
from recon_cli.experiment.ranks import ALONE, Ranks
from recon_cli.experiment.targets import user_code
from recon_cli.random_states import random_states, set_random_states
from recon_cli.updating.half_batches import HalfBatches
from recon_cli.updating.mean_losses import MeanLosses
from recon_cli.updating.recorder import Recorder
from recon_cli.updating.stepper import NOTHING_MEASURED, Stepper


class Training:
    """Training of a network.

    :param experiment: what is trained.
    :param method: the update rule, and what it sees.
    :param recorder: takes what is measured on some steps; the others are plain steps without hooks. Of a step that
        accumulates several batches, the first is measured.
    :param ranks: the processes that train the network together, each on its own batches. The loss of a task is the mean
        over those that have it.
    :param seed: of rules that draw random numbers.
    :ivar step: the steps made.
    :ivar passes: the passes over the data whose steps are all made.
    :ivar losses: the mean losses since they were last taken.
    :ivar pass_losses: those of the present pass over the data.
    :ivar labelled: the indices of the tasks that had a label in some step.
    :ivar reached: the names of the parameters that had a gradient in the first step.
    :ivar flow: the data flow of the network as it was written, known from the first step on unless it could not be
        recorded.
    :ivar flow_fault: why it could not.
    :raises ReconError: if there is no such rule, or it cannot be applied so.
    """

    def __init__(
        self,
        experiment: Experiment,
        method: Method = JOINT,
        *,
        recorder: Recorder | None = None,
        ranks: Ranks = ALONE,
        seed: int = 0,
    ) -> None:
        self._experiment = experiment
        self._names = tuple(task.name for task in experiment.tasks)
        # To find them anew in every step takes as long as all the rest of what is done here.
        self._parameters = list(experiment.model.parameters())
        self._recorder = recorder
        self._ranks = ranks
        self._stepper = Stepper(
            experiment.model,
            self._names,
            method,
            measured=NOTHING_MEASURED if recorder is None else recorder.measured,
            seed=seed,
            sharded=experiment.is_sharded,
        )
        self._half_batches: HalfBatches | None = None
        # The first measured step is one of them, if there are any.
        if recorder is not None and recorder.wants_halves:
            self._half_batches = HalfBatches(experiment, recorder.measured, ranks)
        if "new losses" in self._stepper.needs and experiment.optimization.accumulate > 1:
            raise ReconError(
                f"the rule {quoted(method.name)} looks at the losses of a step's batch after the step, and a step that "
                f"accumulates has several",
                "leave out `accumulate` under `optimizer`, or take another rule",
            )
        self._taken: list[Batch] = []
        self._has_ended = False
        self.step = 0
        self.passes = 0
        self.losses = MeanLosses(len(self._names))
        self.pass_losses = MeanLosses(len(self._names))
        self.labelled: set[int] = set()
        self.reached: tuple[str, ...] = ()
        self.flow: Dataflow | None = None
        self.flow_fault: str | None = None

    @property
    def notes(self) -> Mapping[str, int]:
        """What the update rule had to say of steps, and of how many."""
        return self._stepper.notes

    def fetch(self) -> bool:
        """Take the batches of the next step; False, once, where a pass over the data ends.

        A process by itself that trains some of the tasks passes over batches that have no label for them.

        :raises ReconError: if the data fails, or a first pass has nothing to learn from.
        """
        batches, wanted = self._experiment.batches, self._experiment.optimization.accumulate
        with self._ranks.together():
            while len(self._taken) < wanted and not self._has_ended:
                batch = batches.next_of_pass()
                if batch is None:
                    self._has_ended = True
                elif self._is_wanted(batch):
                    self._taken.append(batch)
        if self._taken:
            return True
        if self.step == 0:
            active = listed([self._names[task] for task in self._experiment.active])
            raise ReconError(f"no batch has a label for {active}", "look at `label` under `tasks`, and at the data")
        self._has_ended = False
        self.passes += 1
        self._stepper.after_epoch()
        return False

    def advance(self) -> None:
        """Make one step, with the batches that were fetched or are next.

        :raises ReconError: if a loss is not finite, no layer is shared, or the user's code fails.
        """
        optimization = self._experiment.optimization
        # Before the forward pass, which then has their memory.
        for parameter in self._parameters:
            parameter.grad = None
        while not self._taken:
            if not self.fetch():
                losses = [loss for loss in self.pass_losses.take(self._ranks) if loss is not None]
                # Nothing is evaluated here, and a schedule that waits for high values does not wait for losses.
                follows = losses and optimization.awaits != "max"
                self.end_pass(sum(losses) / len(losses) if follows else None)
        batches, self._taken = self._taken, []
        if all(self._backward(batch, 1 / len(batches), is_first=place == 0) for place, batch in enumerate(batches)):
            if not self.reached:
                self.reached = _with_gradient(self._experiment.model)
            optimization.step()
            self._stepper.after_step(lambda: self._losses(batches[-1]))
        else:
            optimization.skip()
        self.step += 1

    def end_pass(self, value: float | None) -> None:
        """Let the learning rate's schedule go on after a pass over the data.

        :param value: what the pass came to, for a schedule that looks at this; None if that is not known.
        """
        self._experiment.optimization.after_epoch(value)

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on; plain data and tensors, which are the training's own."""
        model = self._experiment.model
        return {
            "step": self.step,
            "passes": self.passes,
            "has_ended": self._has_ended,
            "labelled": sorted(self.labelled),
            "reached": list(self.reached),
            "flow": None if self.flow is None else self.flow.model_dump_json(),
            "parameters": {name: parameter.detach() for name, parameter in model.named_parameters()},
            "buffers": dict(model.named_buffers()),
            "optimization": self._experiment.optimization.state(),
            "method": self._stepper.state(),
            "recorder": None if self._recorder is None else self._recorder.state(),
            # What follows is each rank's own.
            "losses": self._ranks.share(self.losses.state()),
            "pass_losses": self._ranks.share(self.pass_losses.state()),
            "batches": self._ranks.share(self._experiment.batches.state()),
            "random": self._ranks.share(random_states()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another training of the same experiment was.

        :raises ReconError: if the network or the data is another one.
        """
        experiment, rank = self._experiment, self._ranks.rank
        if self._recorder is not None:
            # It refuses before anything is taken over.
            self._recorder.restore(state["recorder"])
        self._restore_parameters(state["parameters"])
        _restore_buffers(experiment.model, state["buffers"])
        experiment.optimization.restore(state["optimization"])
        self._stepper.restore(state["method"])
        self.step, self.passes, self._has_ended = state["step"], state["passes"], state["has_ended"]
        self.labelled, self.reached = set(state["labelled"]), tuple(state["reached"])
        self.flow = None if state["flow"] is None else Dataflow.model_validate_json(state["flow"])
        self.losses.restore(state["losses"][rank])
        self.pass_losses.restore(state["pass_losses"][rank])
        experiment.batches.restore(state["batches"][rank])
        set_random_states(state["random"][rank])

    def _backward(self, batch: Batch, share: float, *, is_first: bool) -> bool:
        """One forward pass, and the backward passes that add the update to `.grad`.

        :param share: the batch's part of the step.
        :returns: whether the gradients are such that a rule can make something of them.
        """
        optimization = self._experiment.optimization
        measured = self._recorder is not None and is_first and self._recorder.includes(self.step)
        with ExitStack() as agreed:
            sharded = self._experiment.is_sharded
            agreed.enter_context(self._ranks.apart() if sharded else self._ranks.together())
            if self.step == 0 and is_first:
                # On every rank: a layer may wait for the others.
                self._record_flow(batch)
            with self._stepper.forward(measured=measured):
                losses = self._losses(batch)
            if sharded:
                # In the pass itself the others wait for a block of the network, and not for an agreement.
                agreed.close()
                agreed.enter_context(self._ranks.together())
            values = check_finite([*losses.values()], [self._names[index] for index in losses], self.step)
            for means in (self.losses, self.pass_losses):
                means.add(losses, values)
        try:
            with user_code("the backward pass"):
                found, step = self._stepper.backward(losses, measured=measured, scale=optimization.scale * share)
        except NonFiniteError:
            # A scaler's factor that is too large makes gradients infinite whose losses are not.
            if optimization.scale <= 1:
                raise
            return False
        self.labelled |= set(step.present)
        if found is not None and self._recorder is not None:
            on_halves = None
            if self._half_batches is not None and self._recorder.wants_halves:
                # After the step's own backward passes, so that two graphs never lie side by side.
                on_halves = self._half_batches.measure(batch, optimization.scale)
            self._recorder.record(found.unscaled(step.scale), self.step, step.present, on_halves)
        return True

    def _is_wanted(self, batch: Batch) -> bool:
        experiment = self._experiment
        # Several ranks make the same number of steps, so none of them may pass over a batch.
        if self._ranks.size > 1 or len(experiment.active) == len(experiment.tasks):
            return True
        return bool(labels_of(batch, experiment.tasks, experiment.active))

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

    def _record_flow(self, batch: Batch) -> None:
        """Record the data flow of the network, which stays as it is; the training does not depend on it."""
        if self._experiment.is_sharded:
            self.flow_fault = "the network is sharded"
            return
        try:
            self.flow = flow_on(self._experiment, batch)
        except ReconError as error:
            self.flow_fault = error.message

    def _losses(self, batch: Batch) -> dict[int, torch.Tensor]:
        experiment = self._experiment
        with experiment.optimization.forward():
            return task_losses(experiment.model, experiment.tasks, batch, experiment.active)


def _with_gradient(model: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, parameter in model.named_parameters() if parameter.grad is not None)


def _restore_buffers(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    own = dict(model.named_buffers())
    for name, value in saved.items():
        if name in own and (own[name].shape, own[name].dtype) == (value.shape, value.dtype):
            own[name].copy_(value)
        else:
            # A buffer that came or grew while the network trained.
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._buffers[leaf] = value.to(next(model.parameters()).device)
