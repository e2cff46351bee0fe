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
from recon_cli.errors import ReconError
from recon_cli.experiment.build import Experiment, build_experiment
from recon_cli.experiment.device import choose_device, device_name, repeatable
from recon_cli.experiment.targets import search_path
from recon_cli.layers.discovery import buffer_owners, discover_layers
from recon_cli.profiling.measure import Measurement, measure


@dataclass(frozen=True)
class Leader:
    """A layer that leads the ranking so far.

    :ivar severity: S.
    :ivar score: its S-conflict score so far.
    :ivar rate: the share of its task pairs that conflict.
    """

    name: str
    severity: float
    score: int
    rate: float


class Observer(Protocol):
    """Somebody who watches a profile."""

    def warned(self, message: str) -> None:
        """Something about the network is probably not what was meant."""

    def started(self, iterations: int, device: str) -> None:
        """The network is built: how many iterations are to come."""

    def advanced(self, iteration: int, leaders: Callable[[], list[Leader]]) -> None:
        """An iteration is done; `leaders` gives the layers that lead so far, if they are wanted."""

    def restarted(self, times: int) -> None:
        """The data ran out and was started over for the `times`-th time."""

    def kept(self, path: Path, iterations: int) -> None:
        """The run ended early; what was measured until then was written to `path`."""


@dataclass(frozen=True)
class ProfileRequest:
    """What `recon profile` was asked to do; what is None is taken from the config.

    :ivar allow_code: whether the network's file may be opened although that can run code from it.
    """

    config: LoadedConfig
    iterations: int | None = None
    seed: int | None = None
    device: str | None = None
    checkpoint: Path | None = None
    allow_code: bool = False


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
    config = request.config.config
    settings = config.profile
    iterations = settings.iterations if request.iterations is None else request.iterations
    seed = config.seed if request.seed is None else request.seed
    device = choose_device(request.device or config.device)
    # Standard output is for data, whatever the user's code prints.
    with search_path(request.config.folder), repeatable(seed), redirect_stdout(sys.stderr):
        experiment = build_experiment(
            request.config, seed=seed, device=device, checkpoint=request.checkpoint, allow_code=request.allow_code
        )
        for warning in experiment.warnings:
            observer.warned(warning)
        model = experiment.model
        measurement = Measurement(config.task_names, settings, discover_layers(model), buffer_owners(model))

        def scores(*, complete: bool) -> Scores:
            return _scores(request, experiment, measurement, iterations, seed, complete)

        observer.started(iterations, device_name(device))
        with _keeping_partial(measurement, lambda: scores(complete=False), output, observer):
            measure(experiment, measurement, iterations, _reporter(experiment, measurement, observer))
            result = scores(complete=True)
            if output is not None and output != STANDARD_STREAM:
                result.write(output, overwrite=overwrite)
    if output == STANDARD_STREAM:
        result.write(output)
    return result


def _check_output(request: ProfileRequest, output: Path, *, overwrite: bool) -> None:
    inputs = request.config.files
    if request.checkpoint is not None:
        inputs.append(request.checkpoint)
    check_output(output, overwrite=overwrite, inputs=inputs)


def leaders(measurement: Measurement, severity: int, number: int = 5) -> list[Leader]:
    """The shared layers with the highest scores so far.

    :param severity: index of S among the severities.
    """
    scores, pairs = measurement.tally.score(severity).tolist(), measurement.tally.pairs().tolist()
    first = sorted(measurement.shared(), key=lambda index: -scores[index])[:number]
    value = measurement.settings.severities[severity]
    return [Leader(measurement.tallied[i].name, value, scores[i], scores[i] / max(pairs[i], 1)) for i in first]


def _reporter(experiment: Experiment, measurement: Measurement, observer: Observer) -> Callable[[], None]:
    restarts = 0
    severities = measurement.settings.severities
    # The least severe ones count nearly half of all pairs whatever the layer, so a stricter one is shown.
    shown = min(range(len(severities)), key=lambda index: abs(severities[index] + 0.1))

    def report() -> None:
        nonlocal restarts
        if experiment.batches.restarts > restarts:
            restarts = experiment.batches.restarts
            observer.restarted(restarts)
        observer.advanced(measurement.iterations, lambda: leaders(measurement, shown))

    return report


@contextmanager
def _keeping_partial(
    measurement: Measurement, scores: Callable[[], Scores], output: Path | None, observer: Observer
) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if measurement.iterations and output is not None:
            path = _free_partial_path(output)
            # What ended the run matters more than that its rest cannot be kept.
            with suppress(ReconError, OSError):
                scores().write(path)
                observer.kept(path, measurement.iterations)
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


def _scores(
    request: ProfileRequest,
    experiment: Experiment,
    measurement: Measurement,
    requested: int,
    seed: int,
    complete: bool,
) -> Scores:
    return Scores(
        tasks=measurement.tasks,
        complete=complete,
        iterations=measurement.iterations,
        iterations_requested=requested,
        stage_iterations=measurement.tally.stage_iterations(),
        task_iterations=measurement.tally.task_iterations(),
        pair_iterations=measurement.tally.pair_iterations(),
        method="joint",
        seed=seed,
        device=device_name(experiment.device),
        batch_restarts=experiment.batches.restarts,
        severities=tuple(measurement.settings.severities),
        config_digest=request.config.digest,
        model_digest=experiment.model_digest,
        checkpoint_digest=experiment.checkpoint_digest,
        versions=Versions(recon=__version__, torch=torch.__version__),
        trunk=measurement.trunk(),
        layers=measurement.scored_layers(),
        unranked=measurement.unranked_layers(),
    )
