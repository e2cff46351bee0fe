"""One network, trained from one seed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recon_cli._version import __version__
from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.training import Evaluation, Training
from recon_cli.artifacts.versions import Versions
from recon_cli.branching.streams import count_flops
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.errors import ReconError, counted, quoted
from recon_cli.experiment.build import build_experiment
from recon_cli.experiment.device import device_name
from recon_cli.experiment.ranks import Ranks
from recon_cli.experiment.sharding import distributed_from_first, gathered, whole_state_dict
from recon_cli.layers.discovery import buffer_owners, discover_layers
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.recording import Recording
from recon_cli.profiling.sampling import Sampling
from recon_cli.profiling.scoring import Origin, scores_of
from recon_cli.runs.attention import paying_attention
from recon_cli.runs.identity import START_ANEW, check_same
from recon_cli.runs.keeping import StateKeeper
from recon_cli.training.best import BestBy
from recon_cli.training.evaluation import Evaluator
from recon_cli.training.folder import TrainingFolder
from recon_cli.training.log import TrainingLog
from recon_cli.training.observer import Observer
from recon_cli.training.request import TrainRequest
from recon_cli.training.trackers import Trackers
from recon_cli.updating.rotations import rotated_for
from recon_cli.updating.training import Training as Steps

_STATE = {"run", "training", "log", "trackers", "last", "best", "seconds", "evaluation_seconds"}


class NetworkRun:
    """A network, how far its training is, and what was seen on the way.

    :param seed: seeds everything random.
    :param task: the one task that it is trained for; None for all.
    :param folder: where the first rank writes.
    """

    def __init__(
        self,
        request: TrainRequest,
        seed: int,
        task: str | None,
        device: torch.device,
        folder: TrainingFolder,
        ranks: Ranks,
    ) -> None:
        config = request.config.config
        self._request = request
        self._seed = seed
        self._folder = folder
        self._ranks = ranks
        self._epochs, self._iterations = request.length
        self._settings = config.train
        self.log = TrainingLog(folder.log)
        # One rank speaks for all.
        self.trackers = Trackers(self._settings.trackers if ranks.rank == 0 else (), folder.path)
        experiment = build_experiment(
            request.config,
            seed=seed,
            device=device,
            checkpoint=request.checkpoint,
            allow_code=request.allow_code,
            ranks=ranks,
            branching=request.branching,
            only=task,
            sharded=self._settings.sharded and ranks.size > 1,
        )
        # Rotations are no parameters, so that the optimizer stays right.
        model = rotated_for(experiment.model, config.task_names, request.rule)
        self.experiment = replace(experiment, model=model)
        self._recording = self._make_recording() if task is None else None
        self.training = Steps(self.experiment, request.rule, recorder=self._recording, ranks=ranks, seed=seed)
        self._evaluator = None if config.validation is None else Evaluator(config, self.experiment, ranks)
        self._best_by = None
        if self._evaluator is None:
            if self.experiment.optimization.awaits == "max":
                raise ReconError(
                    "the schedule waits for high values, but without validation data it follows the losses",
                    "name data under `validation`, or set `kwargs: {mode: min}` under `scheduler`",
                )
        else:
            names = [self.experiment.tasks[index].name for index in self.experiment.active]
            self._best_by = BestBy(self._settings.best, self._evaluator.known, names)
            self._best_by.check_awaited(self.experiment.optimization.awaits)
        self._last: Evaluation | None = None
        self._best: Evaluation | None = None
        self._seconds = 0.0
        self._evaluation_seconds = 0.0

    @property
    def steps(self) -> int | None:
        """The steps of the whole training, if that is known."""
        if self._iterations is not None:
            return self._iterations
        batches = self.experiment.batches.length
        assert self._epochs is not None
        return None if batches is None else self._epochs * -(-batches // self.experiment.optimization.accumulate)

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        if self._iterations is not None:
            return self.training.step >= self._iterations
        return self._epochs is not None and self._epoch >= self._epochs

    def try_out(self) -> None:
        """Evaluate the first batch of the validation data, if there is any, before anything is written.

        :raises ReconError: if the network cannot be evaluated so.
        """
        if self._evaluator is not None:
            self._evaluator.try_out()

    def train(self, observer: Observer, keeper: StateKeeper, *, is_last: bool) -> None:
        """Make the steps that are left.

        :param is_last: whether no other network is trained after this one.
        :raises Interrupted: if a signal asks to stop while anything is left to do.
        """
        with paying_attention(keeper, self._ranks) as attention:
            while not self.is_over:
                attention.during(lambda: self._advance(observer))
                attention.between(is_over=is_last and self.is_over)
        for index in self.experiment.active:
            if index not in self.training.labelled:
                name = self.experiment.tasks[index].name
                observer.warned(f"task {quoted(name)} had no label in any batch, so nothing was learned of it")
        for note, times in self.training.notes.items():
            observer.warned(f"{note}: in {counted(times, 'step')} of {self.training.step}")

    def publish(self, observer: Observer) -> Training:
        """Let the first rank write what the training came to; the document last, as it says that all is there.

        :param observer: is told if no conflicts were measured.
        :raises ReconError: if something cannot be written.
        """
        folder, document = self._folder, self.document()
        self._save(folder.last)
        if self._ranks.rank > 0:
            return document
        if self._recording is not None:
            self._write_scores(self._recording, observer)
        document.write(folder.document, overwrite=True)
        return document

    def _write_scores(self, recording: Recording, observer: Observer) -> None:
        try:
            recording.measurement.check_measured()
        except ReconError as error:
            # What was trained is worth keeping all the same.
            observer.warned(f"no conflicts are written: {error.message}")
            return
        request = self._request
        origin = Origin(request.rule, self._seed, request.config.digest, self.training.step)
        scores_of(recording, self.training, self.experiment, origin).write(self._folder.scores, overwrite=True)

    def document(self) -> Training:
        """What the training came to."""
        request, experiment, training = self._request, self.experiment, self.training
        names = {experiment.tasks[index].name: index for index in experiment.active}
        parameters = self._parameters()
        return Training(
            tasks=tuple(names),
            seed=self._seed,
            steps=training.step,
            epochs=self._epoch,
            iterations=self._iterations,
            criteria=() if self._evaluator is None else self._evaluator.criteria,
            last=self._last,
            best=self._best,
            best_by=self._settings.best,
            parameters=sum(parameter.numel() for parameter in parameters),
            bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
            operations=self._operations(),
            split_layers=0 if experiment.manifest is None else len(experiment.manifest.layers),
            seconds=self._seconds,
            evaluation_seconds=self._evaluation_seconds,
            method=request.rule,
            precision=request.config.config.precision,
            device=device_name(experiment.device),
            processes=self._ranks.size,
            config_digest=request.config_digest,
            model_digest=experiment.model_digest,
            checkpoint_digest=experiment.checkpoint_digest,
            manifest_digest=None if request.branching is None else request.branching.digest,
            reinitialised=request.branching is not None and request.branching.reinitialise,
            notes=dict(training.notes),
            versions=Versions(recon=__version__, torch=torch.__version__),
        )

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on, and what tells the run from others."""
        sharded = self.experiment.is_sharded
        return {
            "run": self._identity(),
            "training": gathered(self.training.state(), self._ranks) if sharded else self.training.state(),
            "log": self.log.state() if self._ranks.rank == 0 else None,
            "trackers": self.trackers.state(),
            "last": None if self._last is None else self._last.model_dump(),
            "best": None if self._best is None else self._best.model_dump(),
            "seconds": self._seconds,
            "evaluation_seconds": self._evaluation_seconds,
        }

    def from_first(self, state: dict[str, Any] | None) -> dict[str, Any] | None:
        """The state that the first rank has read, as each rank goes on with it."""
        if self.experiment.is_sharded:
            return distributed_from_first(state, self.experiment.model, self._ranks)  # type: ignore[no-any-return]
        return self._ranks.from_first(state)

    def restore(self, state: Mapping[str, Any], source: str) -> None:
        """Go on where a run of the same kind was.

        :param source: what the state is called in messages.
        :raises ReconError: naming what differs, if it was of another kind.
        """
        if set(state) != _STATE:
            raise ReconError(f"{source} holds no state of a training", START_ANEW)
        check_same(state["run"], self._identity(), source)
        if self._ranks.rank == 0:
            again = self.log.restore(state["log"])
            self.trackers.restore(state["trackers"], state["training"]["step"], again)
        self.training.restore(state["training"])
        self._last = None if state["last"] is None else Evaluation.model_validate(state["last"])
        self._best = None if state["best"] is None else Evaluation.model_validate(state["best"])
        self._seconds, self._evaluation_seconds = state["seconds"], state["evaluation_seconds"]

    @property
    def _epoch(self) -> int:
        return self.training.passes

    def _advance(self, observer: Observer) -> None:
        """Make a step, or end an epoch."""
        begun = time.perf_counter()
        if self.training.fetch():
            self.training.advance()
            self._seconds += time.perf_counter() - begun
            self._after_step(observer)
        else:
            self._after_epoch(observer)

    def _after_step(self, observer: Observer) -> None:
        step, every = self.training.step, self._settings.evaluate_every
        observer.advanced(step, self._epoch)
        if step == 1 and self.training.flow_fault is not None:
            observer.warned(f"it will not be known what the network costs in operations: {self.training.flow_fault}")
        if step % self._settings.log_every == 0:
            losses = self._by_task(self.training.losses.take(self._ranks))
            rates = self.experiment.optimization.rates
            self._note({"event": "steps", "losses": losses, "rates": rates})
            observer.trained(losses, rates)
        if self._iterations is not None and (step == self._iterations or (every and step % every == 0)):
            self._evaluate(observer)

    def _after_epoch(self, observer: Observer) -> None:
        losses = self.training.pass_losses.take(self._ranks)
        rates = self.experiment.optimization.rates
        self._note({"event": "epoch", "losses": self._by_task(losses), "rates": rates})
        observer.trained(self._by_task(losses), rates)
        every = self._settings.evaluate_every or 1
        if self._epochs is not None and (self._epoch % every == 0 or self._epoch == self._epochs):
            self._evaluate(observer)
        self.training.end_pass(self._value_of_epoch([loss for loss in losses if loss is not None]))

    def _value_of_epoch(self, losses: list[float]) -> float | None:
        """What a schedule may follow: the evaluation of this epoch, if it had one; without any, the losses' mean."""
        if self._best_by is None:
            return sum(losses) / len(losses) if losses else None
        is_new = self._last is not None and self._last.step == self.training.step
        return self._best_by.value(self._last.figures) if self._last is not None and is_new else None

    def _evaluate(self, observer: Observer) -> None:
        if self._evaluator is None or self._best_by is None:
            return
        begun = time.perf_counter()
        found = Evaluation(step=self.training.step, epoch=self._epoch, figures=self._evaluator.evaluate())
        best = None if self._best is None else self._best_by.value(self._best.figures)
        is_best = self._best_by.is_better(self._best_by.value(found.figures), best)
        self._last = found
        if is_best:
            self._best = found
            with self._ranks.together():
                self._save(self._folder.best)
        self._note({"event": "evaluation", "figures": found.figures, "best": is_best})
        observer.evaluated(self._epoch, found.figures, is_best=is_best)
        self._evaluation_seconds += time.perf_counter() - begun

    def _note(self, line: Mapping[str, Any]) -> None:
        with self._ranks.together():
            if self._ranks.rank == 0:
                whole = {"step": self.training.step, "epoch": self._epoch, **line}
                self.log.add(whole)
                self.trackers.add(whole)

    def _save(self, path: Path) -> None:
        weights = whole_state_dict(self.experiment.model, self._ranks)
        if self._ranks.rank == 0:
            manifest = self.experiment.manifest
            # A branched checkpoint says how it is branched, so that it can be taken apart again.
            carried = {Manifest.METADATA_KEY: manifest.to_bytes().decode()} if isinstance(manifest, Manifest) else {}
            save_state_dict(weights, path, overwrite=True, carried=carried)

    def _by_task(self, values: list[float | None]) -> dict[str, float | None]:
        return {self.experiment.tasks[index].name: values[index] for index in self.experiment.active}

    def _make_recording(self) -> Recording | None:
        config, conflicts = self._request.config.config, self._settings.conflicts
        if conflicts is None:
            return None
        model, steps = self.experiment.model, self.steps
        if conflicts.samples is not None and steps is None:
            raise ReconError(
                "`train.conflicts.samples` are spread over the steps of the training, and the data does not say how "
                "many an epoch has",
                "give `every`, or `train.iterations`",
            )
        # Data without a whole batch has none, which is said once it is asked for one.
        sampling = Sampling(None if steps is None else max(steps, 1), conflicts.every, conflicts.samples)
        measurement = Measurement(config.task_names, config.profile, discover_layers(model), buffer_owners(model))
        return Recording(measurement, sampling, memory_limit=config.profile.memory_bytes)

    def _parameters(self) -> list[torch.nn.Parameter]:
        named = dict(self.experiment.model.named_parameters())
        if len(self.experiment.active) == len(self.experiment.tasks):
            return list(named.values())
        reached = set(self.training.reached)
        return [value for name, value in named.items() if name in reached or not value.requires_grad]

    def _operations(self) -> int | None:
        flow, experiment = self.training.flow, self.experiment
        if flow is None:
            return None
        if experiment.manifest is not None:
            return count_flops(flow, experiment.manifest.layers)
        active = set(experiment.active)
        return sum(operation.flops for operation in flow.operations if active & set(operation.tasks))

    def _identity(self) -> dict[str, Any]:
        request, experiment = self._request, self.experiment
        return {
            "config": request.config_digest,
            "model": experiment.model_digest,
            "checkpoint": experiment.checkpoint_digest,
            "manifest": None if request.branching is None else request.branching.digest,
            "reinitialised": request.branching is not None and request.branching.reinitialise,
            "tasks": [experiment.tasks[index].name for index in experiment.active],
            "method": request.rule.model_dump_json(),
            "seed": self._seed,
            "epochs": self._epochs,
            "iterations": self._iterations,
            "device": experiment.device.type,
            "processes": self._ranks.size,
            "torch": str(torch.__version__),
            "recon": __version__,
        }
