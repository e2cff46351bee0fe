"""`recon profile`: from a config to a scores file, and to a partial one if the run ends early."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from recon_cli._version import __version__
from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.publish import check_output
from recon_cli.artifacts.scores import Scores
from recon_cli.artifacts.versions import Versions
from recon_cli.config.schema import LoadedConfig
from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.build import build_experiment
from recon_cli.experiment.device import choose_device, device_name, repeatable
from recon_cli.experiment.targets import search_path
from recon_cli.layers.discovery import buffer_owners, discover_layers
from recon_cli.profiling.leaders import Leader, leaders
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.sampling import Sampling
from recon_cli.profiling.training import JointTraining


class Observer(Protocol):
    """Somebody who watches a profile."""

    def started(self, steps: int, device: str) -> None:
        """The network is built: how many training steps are to come."""

    def advanced(self, step: int, leaders: Callable[[], list[Leader]]) -> None:
        """A step is done; `leaders` gives the layers that lead so far, if they are wanted."""

    def restarted(self, times: int) -> None:
        """The data ran out and was started over for the `times`-th time."""

    def warned(self, message: str) -> None:
        """Something is probably not as it was meant."""

    def kept(self, path: Path, iterations: int) -> None:
        """The run ended early; what was measured until then was written to `path`."""


@dataclass(frozen=True)
class ProfileRequest:
    """What `recon profile` was asked to do; what is None is taken from the config."""

    config: LoadedConfig
    iterations: int | None = None
    every: int | None = None
    samples: int | None = None
    seed: int | None = None
    device: str | None = None
    checkpoint: Path | None = None


def profile(request: ProfileRequest, observer: Observer, output: Path | None, *, overwrite: bool = False) -> Scores:
    """Measure the conflicts of a network's tasks (Recon, Algorithm 1, first part).

    :param output: the scores file, `-` for standard output, or None for none.
    :raises ReconError: if the config does not work, or a loss becomes NaN or infinite. What was measured until then is
        kept in a file beside `output` whose name says `partial`; so it is when the run is interrupted.
    """
    if output is not None and output != STANDARD_STREAM:
        # The user's code may change the working folder.
        output = output.absolute()
        _check_output(request, output, overwrite=overwrite)
    seed = request.config.config.seed if request.seed is None else request.seed
    # Standard output is for data, whatever the user's code prints.
    with search_path(request.config.folder), repeatable(seed), redirect_stdout(sys.stderr):
        run = _Run(request, seed)
        observer.started(run.steps, device_name(run.experiment.device))
        with _keeping_partial(run, output, observer):
            run.train(observer)
            result = run.scores()
            if output is not None and output != STANDARD_STREAM:
                result.write(output, overwrite=overwrite)
    if output == STANDARD_STREAM:
        result.write(output)
    return result


class _Run:
    """One profile: what is trained, how far it is, and what was measured until then.

    :ivar steps: the training steps of the whole run.
    """

    def __init__(self, request: ProfileRequest, seed: int) -> None:
        config = request.config.config
        settings = config.profile
        self._request = request
        self._seed = seed
        self.steps = settings.iterations if request.iterations is None else request.iterations
        self._sampling = _sampling(request, self.steps)
        device = choose_device(request.device or config.device)
        self.experiment = build_experiment(request.config, seed=seed, device=device, checkpoint=request.checkpoint)
        model = self.experiment.model
        self.measurement = Measurement(config.task_names, settings, discover_layers(model), buffer_owners(model))
        self.training = JointTraining(self.experiment, self.measurement, self._sampling)

    def train(self, observer: Observer) -> None:
        """Make all steps."""
        batches, restarts = self.experiment.batches, 0
        while self.training.step < self.steps:
            self.training.advance()
            if batches.restarts > restarts:
                restarts = batches.restarts
                observer.restarted(restarts)
            observer.advanced(self.training.step, lambda: leaders(self.measurement))
        self._warn_of_missing_tasks(observer)
        self.measurement.check_measured()

    def _warn_of_missing_tasks(self, observer: Observer) -> None:
        for index, task in enumerate(self.measurement.tasks):
            if index not in self.training.labelled:
                observer.warned(f"task {quoted(task)} had no label in any batch, so nothing is known of its conflicts")
            elif index not in self.training.measured:
                observer.warned(
                    f"task {quoted(task)} had labels, but in none of the steps that were measured; "
                    f"try another `--samples` or `--every`"
                )

    def scores(self) -> Scores:
        """What was measured so far."""
        measurement, experiment = self.measurement, self.experiment
        return Scores(
            tasks=measurement.tasks,
            complete=self.training.step == self.steps,
            steps=self.training.step,
            steps_requested=self.steps,
            iterations=measurement.iterations,
            iterations_requested=self._sampling.count(self.steps),
            stage_iterations=tuple(measurement.stage_iterations),
            method="joint",
            seed=self._seed,
            device=device_name(experiment.device),
            batch_restarts=experiment.batches.restarts,
            severities=tuple(measurement.settings.severities),
            config_digest=self._request.config.digest,
            checkpoint_digest=experiment.checkpoint_digest,
            versions=Versions(recon=__version__, torch=torch.__version__),
            trunk=measurement.trunk(),
            layers=measurement.scored_layers(),
            unranked=measurement.unranked_layers(),
        )


def _sampling(request: ProfileRequest, steps: int) -> Sampling:
    if request.every is not None or request.samples is not None:
        return Sampling(steps, request.every, request.samples)
    settings = request.config.config.profile
    return Sampling(steps, settings.every, settings.samples if settings.every is None else None)


def _check_output(request: ProfileRequest, output: Path, *, overwrite: bool) -> None:
    loaded = request.config
    inputs = [loaded.path]
    if request.checkpoint is not None:
        inputs.append(request.checkpoint)
    if loaded.config.model.checkpoint is not None:
        inputs.append(loaded.folder / loaded.config.model.checkpoint)
    check_output(output, overwrite=overwrite, inputs=inputs)


@contextmanager
def _keeping_partial(run: _Run, output: Path | None, observer: Observer) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if run.measurement.has_pairs and output is not None:
            path = _free_partial_path(output)
            # What ended the run matters more than that its rest cannot be kept.
            with suppress(ReconError, OSError):
                run.scores().write(path)
                observer.kept(path, run.measurement.iterations)
        raise


def _free_partial_path(output: Path) -> Path:
    base = Path("scores.json") if output == STANDARD_STREAM else output
    number = 1
    while True:
        mark = "partial" if number == 1 else f"partial-{number}"
        path = base.with_name(f"{base.stem[:200]}.{mark}{base.suffix[:20]}")
        if not os.path.lexists(path):
            return path
        number += 1
