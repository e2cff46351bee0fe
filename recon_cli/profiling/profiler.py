"""Profiling in somebody's own training loop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from recon_cli._version import __version__
from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.document import first_problem
from recon_cli.artifacts.scores import Scores
from recon_cli.artifacts.versions import Versions
from recon_cli.config.schema import DEFAULT_SEVERITIES, ProfileSection
from recon_cli.errors import ReconError, listed
from recon_cli.experiment.device import device_name
from recon_cli.experiment.losses import check_finite
from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.engine import LayerGrams
from recon_cli.layers.discovery import buffer_owners, discover_layers
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.sampling import Sampling
from recon_cli.profiling.settling import top_overlap
from recon_cli.tasks import check_tasks
from recon_cli.updating.in_loop import InLoop, method_of, unwrapped
from recon_cli.updating.losses import check_differentiable, losses_by_task
from recon_cli.updating.step import Step
from recon_cli.updating.ways.way import Measured


class ConflictProfiler(InLoop):
    """Measures how often tasks conflict, while somebody else's loop trains the network.

        profiler = ConflictProfiler(model, ["segmentation", "depth"], steps=len(loader))
        for images, targets in loader:
            outputs = model(images)
            losses = {"segmentation": ..., "depth": ...}
            optimizer.zero_grad()
            profiler.backward(losses)           # instead of (sum(losses) / len(losses)).backward()
            optimizer.step()
        profiler.scores().write(Path("scores.json"))

    A measured step costs one more backward pass per further task; the others cost what they did before, unless the
    update rule looks at gradients. What counts is
    how many steps are measured, not how many of them lie between: their cosines are nearly independent.

    :param model: the network; it is not changed, but for forward hooks between a step and a sampled one.
    :param tasks: the names of its tasks, in the order of its outputs.
    :param method: the update rule that the network is trained by, by name or as :class:`recon_cli.Updates` takes it.
    :param seed: of rules that draw random numbers.
    :param steps: how many steps the loop will make, if that is known; the stages are parts of it.
    :param every: n: every n-th step is measured, the first one among them. Default: 10, if `steps` is not known.
    :param samples: how many steps are measured, spread evenly over the run. Default: 1500, if `steps` is known.
    :param stages: how many parts of the run are counted apart; more than one needs `steps`.
    :param severities: the severities S at which conflicts are counted.
    :param include: patterns of layer names to measure.
    :param exclude: patterns of layer names not to measure.
    :param features: names of modules whose outputs the tasks share, to measure Feature Disentanglement there.
    :param memory_limit: what the gradients of several tasks may take at a time on a measured step, such as `2GB`.
        Default: a quarter of what is free.
    :param flow: the network's data flow, which :func:`recon_cli.dataflow_of` records on an example batch. It goes into
        the scores, so that `recon split` can tell what splits cost in operations.
    :raises ReconError: if the tasks or the network cannot be profiled.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[str],
        *,
        method: str | Mapping[str, Any] = "joint",
        seed: int = 0,
        steps: int | None = None,
        every: int | None = None,
        samples: int | None = None,
        stages: int | None = None,
        severities: Sequence[float] = DEFAULT_SEVERITIES,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        features: Sequence[str] = (),
        memory_limit: str | None = None,
        flow: Dataflow | None = None,
    ) -> None:
        self._sampling = Sampling.choose(steps, every, samples)
        if stages is not None and stages > 1 and steps is None:
            raise ReconError(f"{stages} stages need `steps`, to know where one ends")
        tasks = check_tasks(tasks)
        if flow is not None and flow.tasks != tasks:
            raise ReconError(f"the data flow is of the tasks {listed(flow.tasks)}, not of {listed(tasks)}")
        self._flow = flow
        settings = _settings(
            iterations=steps or 1,
            stages=stages or (4 if steps else 1),
            severities=list(severities),
            include=list(include),
            exclude=list(exclude),
            features=list(features),
            memory_limit=memory_limit,
        )
        network = unwrapped(model)
        self._measurement = Measurement(tasks, settings, discover_layers(network), buffer_owners(network))
        self._method = method_of(method)
        measured = Measured(self._measurement.tallied, settings.features, settings.memory_bytes)
        super().__init__(model, tasks, self._method, measured=measured, seed=seed)
        self._model = network
        self._step = 0
        self._watch(measured=self._is_sampled)

    def backward(self, losses: Mapping[str, torch.Tensor | None], *, scale: float = 1.0) -> None:
        """Add the update to `.grad`, for joint training the gradient of the mean of the losses; and count the conflicts
        if this step is sampled.

        :param losses: a scalar for each task; a task without labels in this batch is left out, or None.
        :param scale: what the losses are multiplied by for the backward passes, as a gradient scaler asks for.
        :raises NonFiniteError: if a loss of a sampled step is NaN or infinite, or whatever the rule looks at.
        :raises ReconError: if a task is not known, none has a loss, or a named feature is not one tensor that two tasks
            share.
        """
        try:
            given = losses_by_task(losses, self.tasks)
            check_differentiable(given, self.tasks)
            if self._is_sampled:
                with Ranks.current().together():
                    check_finite([*given.values()], [self.tasks[index] for index in given], self._step)
            found, step = self._stepper.backward(given, measured=self._is_sampled, scale=scale)
            if found is not None:
                self._record(found.unscaled(scale), step)
            self._step += 1
        finally:
            # A loop may pass over a step that failed.
            self._watch(measured=self._is_sampled)

    def stability(self, k: int, severity: float = -0.1) -> float:
        """Which share of their first k layers, by the S-conflict score, two random halves of what was measured have in
        common, from 0 to 1; a loop may stop at 0.9, as `recon profile --until-stable` does. To tell it takes some 0.1
        seconds.

        :param severity: S, one of the `severities`.
        :raises ReconError: if fewer than 16 steps were measured, no more than k layers are shared, or S is not counted.
        """
        return top_overlap(self._measurement, k, severity)

    def scores(self) -> Scores:
        """What was measured so far, as `recon profile` would write it.

        :raises ReconError: if nothing was measured, or no layer is shared by two tasks.
        """
        measurement = self._measurement
        if measurement.iterations == 0:
            raise ReconError("nothing was measured yet", "call `backward` on every step")
        measurement.check_measured()
        requested = self._sampling.steps or 0
        return Scores(
            **measurement.counted(),
            complete=self._step >= requested,
            steps=self._step,
            steps_requested=max(self._step, requested),
            iterations_requested=max(measurement.iterations, self._sampling.count(requested)),
            method=self._method,
            seed=None,
            device=device_name(next(self._model.parameters()).device),
            batch_restarts=0,
            config_digest=None,
            checkpoint_digest=None,
            versions=Versions(recon=__version__, torch=torch.__version__),
            flow=self._flow,
        )

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the scores to a file, which appears whole or not at all."""
        self.scores().write(Path(path), overwrite=overwrite)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a profiler of the same network and settings needs to go on; plain data and tensors."""
        return {
            "tasks": list(self.tasks),
            "steps": self._sampling.steps,
            "every": self._sampling.every,
            "samples": self._sampling.samples,
            "step": self._step,
            "method": self._stepper.state(),
            **copy.deepcopy(self._measurement.state()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another profiler of the same network and settings was.

        :raises ReconError: if it was one of another network or of other settings.
        """
        expected = self.state_dict()
        if set(state) != set(expected):
            raise ReconError("the saved state is not one of a ConflictProfiler")
        for name in ("tasks", "steps", "every", "samples"):
            if state[name] != expected[name]:
                raise ReconError(f"the saved state has {name} {state[name]}, this profiler {expected[name]}")
        # Both refuse before anything is taken over.
        self._measurement.check(state)
        self._stepper.restore(state["method"])
        self._measurement.restore(state)
        self._step = state["step"]
        self._watch(measured=self._is_sampled)

    @property
    def _is_sampled(self) -> bool:
        return self._sampling.includes(self._step)

    def _record(self, found: LayerGrams, step: Step) -> None:
        if len(step.present) == len(self.tasks):
            self._measurement.check_features(found)
        stage = self._sampling.stage(self._step, self._measurement.settings.stages)
        self._measurement.record(found, stage, step.present)


def _settings(**values: Any) -> ProfileSection:
    try:
        return ProfileSection(**values)
    except ValidationError as error:
        raise ReconError(first_problem(error)) from None
