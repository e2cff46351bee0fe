"""`recon profile`: from a config to a scores file, and to a partial one if the run ends early."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from recon_cli._version import __version__
from recon_cli.artifacts.cosines import Cosines, cosines_path
from recon_cli.artifacts.document import STANDARD_STREAM, first_problem
from recon_cli.artifacts.publish import check_output, publishing, write_all
from recon_cli.artifacts.scores import Scores
from recon_cli.config.schema import LoadedConfig, ProfileSection
from recon_cli.errors import ReconError, counted, quoted
from recon_cli.experiment.build import build_experiment
from recon_cli.experiment.device import choose_device, device_name, repeatable
from recon_cli.experiment.ranks import Ranks, joined_ranks
from recon_cli.experiment.targets import search_path
from recon_cli.layers.discovery import buffer_owners, discover_layers
from recon_cli.profiling.cosine_log import CosineLog
from recon_cli.profiling.leaders import leaders
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.observer import Observer
from recon_cli.profiling.recording import Recording
from recon_cli.profiling.sampling import Sampling
from recon_cli.profiling.scoring import Origin, scores_of
from recon_cli.profiling.settling import Settling
from recon_cli.runs.attention import paying_attention
from recon_cli.runs.folder import RunFolder
from recon_cli.runs.identity import START_ANEW, check_same
from recon_cli.runs.interruption import Interrupted, unnoticed_workers
from recon_cli.runs.keeping import StateKeeper
from recon_cli.runs.observer import Nobody
from recon_cli.sizes import option_bytes
from recon_cli.updating.rotations import rotated_for
from recon_cli.updating.training import Training


@dataclass(frozen=True)
class ProfileRequest:
    """What `recon profile` was asked to do; what is None is taken from the config.

    :ivar allow_code: whether the network's file may be opened although that can run code from it.
    :ivar method: name of an update rule, with its defaults if it is not the config's.
    :ivar until_stable: K: it stops when the first K layers have settled.
    :ivar severity: S of the score that they are the first by.
    """

    config: LoadedConfig
    iterations: int | None = None
    every: int | None = None
    samples: int | None = None
    seed: int | None = None
    device: str | None = None
    checkpoint: Path | None = None
    memory_limit: str | None = None
    allow_code: bool = False
    method: str | None = None
    until_stable: int | None = None
    severity: float | None = None


def profile_digest(config: LoadedConfig) -> str:
    """The digest of what a profile takes from a config."""
    sections = ("model", "tasks", "data", "optimizer", "scheduler", "precision", "method", "profile", "seed")
    return config.digest_of(*sections, without={"tasks": {"__all__": {"metrics"}}})


def profile(
    request: ProfileRequest,
    observer: Observer,
    output: Path | None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    save_cosines: bool = False,
    more_follows: bool = False,
) -> Scores:
    """Measure the conflicts of a network's tasks (Recon, Algorithm 1, first part).

    While it runs, a folder beside `output` (`scores.run` for `scores.json`) keeps its state; SIGINT and SIGTERM let it
    finish its step, save, and end by KeyboardInterrupt or SystemExit(143).

    :param output: the scores file, `-` for standard output, or None for none.
    :param overwrite: whether an existing file is replaced, and an unfinished run beside it dropped.
    :param resume: whether to go on with the run beside `output`, if there is one. It ends in the same bytes as if it
        had not been interrupted.
    :param save_cosines: whether every cosine is written to a file beside `output` (`artifacts/cosines.py`).
    :param more_follows: whether the process goes on after it, so that a signal in the last step, too, has to stop it.
    :raises ReconError: if the config does not work, the run to go on with is of another kind, or a loss becomes NaN or
        infinite. What was measured until then is kept in a file beside `output` whose name says `partial`.
    """
    seed = request.config.config.seed if request.seed is None else request.seed
    # The user's code may change the working folder.
    output = output if output is None or output == STANDARD_STREAM else output.absolute()
    device = choose_device(request.device or request.config.config.device)
    # Standard output is for data, whatever the user's code prints.
    with (
        search_path(request.config.folder),
        repeatable(seed),
        redirect_stdout(sys.stderr),
        joined_ranks(device) as ranks,
    ):
        # One rank speaks and writes for all.
        is_first = ranks.rank == 0
        observer = observer if is_first else Nobody()
        with ranks.together():
            folder = _folder(request, output, overwrite, resume, save_cosines) if is_first else None
        log = CosineLog(folder.path) if folder is not None and save_cosines else None
        with ranks.together():
            run = _Run(request, seed, device, log, ranks)
        # Only when all ranks have come so far, so that none of them leaves an empty folder behind.
        with ranks.together():
            state = _begin(folder, observer, resume=resume) if folder is not None else None
        run.experiment.align(ranks, seed)
        state = ranks.from_first(state)
        if state is not None:
            with ranks.together():
                run.restore(state, "the run folder" if folder is None else quoted(folder.path))
        for warning in run.experiment.warnings:
            observer.warned(warning)
        observer.started(run.steps, device_name(device), run.training.step)
        is_kept = ranks.from_first(folder is not None)
        keeper = StateKeeper(folder, run.state, observer.warned) if is_kept else None
        with _keeping(run, folder, keeper, output if is_first else None, observer):
            run.train(observer, keeper, more_follows=more_follows)
            result = run.scores()
            with ranks.together():
                if is_first and output is not None and output != STANDARD_STREAM:
                    run.write(output, overwrite=overwrite)
        if folder is not None:
            try:
                folder.remove()
            except ReconError as error:
                observer.warned(error.message)
    if is_first and output == STANDARD_STREAM:
        result.write(output)
    return result


def _folder(
    request: ProfileRequest, output: Path | None, overwrite: bool, resume: bool, save_cosines: bool
) -> RunFolder | None:
    if output is None or output == STANDARD_STREAM:
        if save_cosines:
            raise ReconError(
                "cosines are written beside the scores, which have no place", "name a file: `-o scores.json`"
            )
        if resume:
            raise ReconError(
                "a run whose scores go to standard output cannot be resumed", "name a file: `-o scores.json`"
            )
        return None
    for path in (output, cosines_path(output)) if save_cosines else (output,):
        _check_output(request, path, overwrite=overwrite)
    folder = RunFolder.beside(output)
    if not (resume or overwrite):
        folder.check_absent()
    return folder


def _begin(folder: RunFolder, observer: Observer, *, resume: bool) -> dict[str, Any] | None:
    """The state of the run to go on with, or None for one that begins in a folder of its own."""
    if resume and folder.has_state:
        return folder.load()
    if resume and not folder.exists:
        observer.noted(f"there is no run in {quoted(folder.path)} to go on with; starting from the beginning")
    elif resume:
        observer.noted(f"the run in {quoted(folder.path)} saved nothing yet; starting from the beginning")
    # Whoever must not replace a run was refused before.
    folder.remove()
    folder.create()
    return None


class _Run:
    """One profile: what is trained, how far it is, and what was measured until then.

    :ivar steps: the training steps of the whole run, unless the ranking settles before.
    """

    def __init__(
        self, request: ProfileRequest, seed: int, device: torch.device, log: CosineLog | None, ranks: Ranks
    ) -> None:
        config = request.config.config
        settings = _settings(request)
        self._request = request
        self._log = log
        self.steps = settings.iterations if request.iterations is None else request.iterations
        sampling = _sampling(request, self.steps)
        method = config.chosen_method(request.method)
        self._ranks = ranks
        self.experiment = build_experiment(
            request.config,
            seed=seed,
            device=device,
            checkpoint=request.checkpoint,
            allow_code=request.allow_code,
            ranks=ranks,
        )
        model = rotated_for(self.experiment.model, config.task_names, method)
        # Rotations are no parameters, so that the optimizer stays right.
        self.experiment = replace(self.experiment, model=model)
        self.measurement = Measurement(config.task_names, settings, discover_layers(model), buffer_owners(model))
        self.recording = Recording(self.measurement, sampling, log, _memory_limit(request))
        self.settling = Settling(self.recording, settings.until_stable, ranks)
        self.training = Training(self.experiment, method, recorder=self.recording, ranks=ranks, seed=seed)
        self._origin = Origin(method, seed, request.config.digest, self.steps)

    def train(self, observer: Observer, keeper: StateKeeper | None, *, more_follows: bool) -> None:
        """Make the steps that are left, or those until the ranking has settled.

        :param more_follows: whether a signal in the last one stops the run as well.
        :raises Interrupted: if a signal asks to stop before the last one.
        """
        batches = self.experiment.batches
        restarts = batches.restarts
        with paying_attention(keeper, self._ranks) as attention:
            while not self._is_over():
                attention.during(self.training.advance)
                if self.training.step == 1 and self.training.flow_fault is not None:
                    observer.warned(f"it will not be known what splits cost in operations: {self.training.flow_fault}")
                if batches.restarts > restarts:
                    restarts = batches.restarts
                    observer.restarted(restarts)
                observer.advanced(self.training.step, lambda: leaders(self.measurement))
                attention.between(is_over=self._is_over() and not more_follows)
        self._warn_of_missing_tasks(observer)
        for note, times in self.training.notes.items():
            observer.warned(f"{note}: in {counted(times, 'step')} of {self.training.step}")
        self.measurement.check_measured()
        halves = self.measurement.halved_iterations()
        if halves is not None and halves.skipped:
            observer.warned(
                f"{halves.skipped} of {halves.skipped + halves.iterations} batches that were to be measured in halves "
                "had but one item, and were not"
            )
        if outcome := self.settling.outcome(self.training.step, self.steps):
            observer.noted(outcome)

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on, and what tells the run from others."""
        return {"run": self._identity(), "training": self.training.state()}

    def restore(self, state: Mapping[str, Any], source: str) -> None:
        """Go on where a run of the same kind was.

        :param source: what the state is called in messages.
        :raises ReconError: naming what differs, if it was of another kind.
        """
        if set(state) != {"run", "training"}:
            raise ReconError(f"{source} holds no state of a profile", START_ANEW)
        check_same(state["run"], self._identity(), source)
        self.training.restore(state["training"])

    def _identity(self) -> dict[str, Any]:
        until = self.measurement.settings.until_stable
        return {
            "config": profile_digest(self._request.config),
            "model": self.experiment.model_digest,
            "checkpoint": self.experiment.checkpoint_digest,
            "tasks": list(self.measurement.tasks),
            "method": self._origin.method.model_dump_json(),
            "seed": self._origin.seed,
            "iterations": self.steps,
            "samples": self.recording.sampling.samples,
            "every": self.recording.sampling.every,
            "until_stable": None if until is None else until.model_dump(),
            "cosines": self._log is not None,
            "device": self.experiment.device.type,
            "processes": self._ranks.size,
            "torch": str(torch.__version__),
            "recon": __version__,
        }

    def _is_over(self) -> bool:
        return self.training.step == self.steps or self.settling.look()

    def _warn_of_missing_tasks(self, observer: Observer) -> None:
        for index, task in enumerate(self.measurement.tasks):
            if index not in self.training.labelled:
                observer.warned(f"task {quoted(task)} had no label in any batch, so nothing is known of its conflicts")
            elif index not in self.recording.tasks:
                observer.warned(
                    f"task {quoted(task)} had labels, but in none of the steps that were measured; "
                    f"try another `--samples` or `--every`"
                )

    def scores(self) -> Scores:
        """What was measured so far."""
        return scores_of(self.recording, self.training, self.experiment, self._origin, self.settling.settled)

    def write(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the scores, and the cosines if they are kept; both appear or neither does.

        :raises ReconError: if they cannot be written.
        """
        scores = self.scores()
        if self._log is None:
            scores.write(path, overwrite=overwrite)
            return
        with publishing([path, cosines_path(path)], overwrite=overwrite) as (file, cosines):
            write_all(file.descriptor, scores.to_bytes(), 0)
            rows = [*self.measurement.shared(), len(self.measurement.tallied)]
            self._log.join(cosines.descriptor, rows, Cosines.metadata(scores))


def _settings(request: ProfileRequest) -> ProfileSection:
    """Those of the config, and until when it goes on as the request says."""
    settings = request.config.config.profile
    asked = {"top_k": request.until_stable, "severity": request.severity}
    asked = {name: value for name, value in asked.items() if value is not None}
    if not asked:
        return settings
    if request.until_stable is None and settings.until_stable is None:
        raise ReconError(
            "--severity says by which conflicts the first layers are to settle, and none are",
            "pass `--until-stable K` as well; conflicts are measured at all `profile.severities` of the config",
        )
    given = {} if settings.until_stable is None else settings.until_stable.model_dump()
    values = settings.model_dump(exclude_unset=True)
    try:
        return ProfileSection(**values | {"until_stable": given | asked})
    except ValidationError as error:
        raise ReconError(first_problem(error)) from None


def _sampling(request: ProfileRequest, steps: int) -> Sampling:
    if request.every is not None or request.samples is not None:
        return Sampling(steps, request.every, request.samples)
    settings = request.config.config.profile
    return Sampling(steps, settings.every, settings.samples if settings.every is None else None)


def _memory_limit(request: ProfileRequest) -> int | None:
    if request.memory_limit is None:
        return request.config.config.profile.memory_bytes
    return option_bytes(request.memory_limit, "--memory-limit")


def _check_output(request: ProfileRequest, output: Path, *, overwrite: bool) -> None:
    inputs = request.config.files
    if request.checkpoint is not None:
        inputs.append(request.checkpoint)
    check_output(output, overwrite=overwrite, inputs=inputs)


@contextmanager
def _keeping(
    run: _Run, folder: RunFolder | None, keeper: StateKeeper | None, output: Path | None, observer: Observer
) -> Iterator[None]:
    """Keep what was measured when the run ends early: its state if it was interrupted, its scores if it failed."""
    try:
        yield
    except Interrupted as interruption:
        with unnoticed_workers():
            run.experiment.batches.close()
        if interruption.between_steps and keeper is not None and keeper.save():
            if folder is not None:
                with suppress(ReconError, OSError):
                    if run.measurement.has_pairs:
                        run.write(folder.partial, overwrite=True)
                observer.suspended(folder.path, run.training.step)
        elif folder is not None and folder.has_state:
            observer.suspended(folder.path, None)
        else:
            _keep_partial(run, output, observer)
        raise interruption.end() from None
    except Exception:
        _keep_partial(run, output, observer)
        if folder is not None and folder.has_state:
            observer.suspended(folder.path, None)
        raise
    finally:
        if folder is not None and not folder.has_state:
            with suppress(ReconError):
                folder.remove()


def _keep_partial(run: _Run, output: Path | None, observer: Observer) -> None:
    # What ended the run matters more than that its rest cannot be kept.
    with suppress(ReconError, OSError):
        if run.measurement.has_pairs and output is not None:
            path = _free_partial_path(output)
            run.write(path)
            observer.kept(path, run.measurement.iterations)


def _free_partial_path(output: Path) -> Path:
    base = Path("scores.json") if output == STANDARD_STREAM else output
    number = 1
    while True:
        mark = "partial" if number == 1 else f"partial-{number}"
        path = base.with_name(f"{base.stem[:200]}.{mark}{base.suffix[:20]}")
        if not (os.path.lexists(path) or os.path.lexists(cosines_path(path))):
            return path
        number += 1
