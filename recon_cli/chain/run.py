"""Recon's Algorithm 1 from the profile to the answer, in one folder of results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recon_cli._version import __version__
from recon_cli.artifacts.conflict_comparison import ConflictComparison
from recon_cli.artifacts.digests import digest_file
from recon_cli.artifacts.document import read_json
from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.method import JOINT, Method
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.run import Answer, RunReport, Split
from recon_cli.artifacts.scores import Scores
from recon_cli.artifacts.training import Results, Training
from recon_cli.branching.requests import read_request
from recon_cli.branching.split import manifest_path, run_split
from recon_cli.chain.network import write_network
from recon_cli.chain.observer import Observer
from recon_cli.chain.request import RunRequest
from recon_cli.chain.sources import source_digests
from recon_cli.chain.stages import Stage
from recon_cli.chain.steps import Steps
from recon_cli.chain.variants import RECON, Variant, slug, variants
from recon_cli.checkpoints.identity import checkpoint_digest
from recon_cli.conflicts.compare import compare_conflicts
from recon_cli.conflicts.runs import Run as ConflictRun
from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.branching import Branching
from recon_cli.experiment.targets import search_path
from recon_cli.profiling.run import ProfileRequest, profile, profile_digest
from recon_cli.ranking.documents import rank_document
from recon_cli.results.compare import compare_results
from recon_cli.results.runs import Run as ResultRun
from recon_cli.torchrun import is_one_of_many
from recon_cli.training.best import BestBy
from recon_cli.training.evaluation import criteria_of
from recon_cli.training.folder import TrainingFolder
from recon_cli.training.request import TrainRequest
from recon_cli.training.results import results_of
from recon_cli.training.run import network_folder, train
from recon_cli.training.trackers import check_installed
from recon_cli.updating.rule_groups import RuleGroups

REPORT = "report.json"
SINGLE_TASK = "single-task"
_INTERVALS = (0.0, -0.01, -0.02, -0.03)


@dataclass(frozen=True)
class _Trained:
    """Networks that are to be trained.

    :ivar name: of their folder.
    :ivar variant: how they are split; None if they are not.
    """

    name: str
    method: Method
    variant: Variant | None = None
    single_task: bool = False


def run(request: RunRequest, observer: Observer) -> RunReport | None:
    """Profile a network, rank and split its layers, train it as it is and split, and compare.

    A step is skipped if it was made before with the same inputs: the sections of the config that it takes, the files
    before it, the code beside the config that targets name, the versions of Recon and PyTorch.

    :returns: what came of it; None if it ends before the comparison.
    :raises ReconError: if a step fails, or the folder holds something else.
    """
    if is_one_of_many():
        raise ReconError(
            "`recon run` runs as one process", "under `torchrun`, call `recon profile` and `recon train` one by one"
        )
    return _Chain(request, observer).run()


class _Chain:
    def __init__(self, request: RunRequest, observer: Observer) -> None:
        self._request = request
        self._observer = observer
        self._config = request.config.config
        self._folder = request.folder.absolute()
        self._steps = Steps(self._folder)
        self._scores = self._folder / "scores.json"
        self._ranking = self._folder / "ranking.json"

    def run(self) -> RunReport | None:
        """Make the steps that have to be made."""
        if self._request.last in ("train", "compare"):
            self._check_methods()
            self._check_trainings()
        self._steps.begin()
        stages: dict[Stage, Callable[[], None]] = {
            "profile": self._profile,
            "rank": self._rank,
            "split": self._split,
            "train": self._train,
        }
        for stage, make in stages.items():
            make()
            if stage == self._request.last:
                return None
        report = self._compare()
        report.write(self._folder / REPORT, overwrite=True)
        return report

    def _check_methods(self) -> None:
        """Refuse before the first step what would end the run in the training of some later network."""
        for method in self._methods:
            rule: RuleGroups[Any] = RuleGroups(method, self._config.task_names, [None], self._config.seed)
            if "rotations" in rule.needs:
                raise ReconError(
                    f"the rule {quoted(method.name)} cannot train a split network, and a run trains one by every rule",
                    "name other rules under `run.methods`",
                )
        names = [trained.name for trained in self._networks]
        for name in names:
            if names.count(name) > 1:
                raise ReconError(f"two of `run.methods` would be written to one folder, {quoted(name)}")

    def _check_trainings(self) -> None:
        """Refuse what no training could be made by, before the first step is made."""
        check_installed(self._config.train.trackers)
        # Standard output is for data, whatever the user's code prints.
        with search_path(self._request.config.folder), redirect_stdout(sys.stderr):
            criteria = [criterion for task in self._config.tasks for criterion in criteria_of(task)]
        BestBy(self._config.train.best, criteria, self._config.task_names)

    def _profile(self) -> None:
        request = self._request
        inputs = {"config": profile_digest(request.config), **self._code}
        goes_on = self._goes_on("profile", "profile", inputs)

        def make() -> None:
            asked = ProfileRequest(request.config, device=request.device, allow_code=request.allow_code)
            with self._observer.profile() as watching:
                profile(asked, watching, self._scores, overwrite=True, resume=goes_on, more_follows=True)

        self._step("profile", "profile", inputs, [self._scores], make)

    def _rank(self) -> None:
        severity = self._config.run.severity
        inputs = {"scores": digest_file(self._scores), "severity": severity, "recon": __version__}

        def make() -> None:
            ranking = rank_document(read_json(self._scores), quoted(self._scores), severity, None, None)
            ranking.write(self._ranking, overwrite=True)

        self._step("rank", "rank", inputs, [self._ranking], make)

    def _split(self) -> None:
        config = self._request.config
        given = self._config.model.checkpoint
        checkpoint = self._folder / "network.safetensors" if given is None else config.folder / given
        if given is None:
            inputs = {"config": config.digest_of("model", "seed"), **self._code}
            allow_code = self._request.allow_code
            self._step(
                "split", "network", inputs, [checkpoint],
                lambda: write_network(config, checkpoint, allow_code=allow_code),
            )  # fmt: skip
        for variant in variants(self._config.run):
            self._split_as(variant, checkpoint)

    def _split_as(self, variant: Variant, checkpoint: Path) -> None:
        output = self._branched(variant)
        inputs = {
            "checkpoint": checkpoint_digest(checkpoint),
            "ranking": digest_file(self._ranking),
            "selection": variant.selection,
            "recon": __version__,
        }

        def make() -> None:
            output.parent.mkdir(exist_ok=True)
            with _naming_the_section(variant):
                asked = read_request(checkpoint, ranking=self._ranking, **variant.selection)
                done = run_split(asked, output, dry_run=False, overwrite=True)
            for warning in done.warnings:
                self._observer.warned(warning)

        self._step("split", f"split {variant.name}", inputs, [output, manifest_path(output)], make)

    def _train(self) -> None:
        if self._config.train.conflicts is not None:
            self._check_shared()
        for trained in self._networks:
            self._train_as(trained)

    def _check_shared(self) -> None:
        """Refuse to measure conflicts where none can be, before the first hour of training."""
        ranked = set(Ranking.read(self._ranking).names)
        for variant in variants(self._config.run):
            split = Manifest.read(manifest_path(self._branched(variant))).layers
            if ranked <= {layer.name for layer in split}:
                raise ReconError(
                    f"split {variant.name}: no layer is left that tasks share, so there are no conflicts to measure",
                    "split fewer layers by `run.select`, or leave out `train.conflicts`",
                )

    def _train_as(self, trained: _Trained) -> None:
        request, folder = self._request, self._folder / trained.name
        manifest = None if trained.variant is None else manifest_path(self._branched(trained.variant))
        reinitialise = self._config.run.reinitialise
        asked = TrainRequest(
            config=request.config,
            seeds=request.seeds,
            single_task=trained.single_task,
            branching=None if manifest is None else Branching.read(manifest, reinitialise=reinitialise),
            method=trained.method,
            device=request.device,
            allow_code=request.allow_code,
        )
        inputs = {
            "config": asked.config_digest,
            "method": trained.method.model_dump(mode="json"),
            "manifest": None if asked.branching is None else asked.branching.digest,
            "reinitialise": reinitialise and manifest is not None,
            **self._code,
        }
        networks = {
            seed: [TrainingFolder(network_folder(folder, seed, task)) for task in asked.networks]
            for seed in asked.all_seeds
        }
        for seed in networks:
            self._train_from(trained.name, seed, asked, inputs, networks[seed])
        results = results_of([Training.read(each.document) for seed in networks for each in networks[seed]], asked)
        path = folder / Results.FILE
        if not path.exists() or path.read_bytes() != results.to_bytes():
            results.write(path, overwrite=True)

    def _train_from(
        self, name: str, seed: int, asked: TrainRequest, inputs: Mapping[str, Any], folders: Sequence[TrainingFolder]
    ) -> None:
        """Train the networks of a seed."""
        step = f"train {name}, seed {seed}"
        goes_on = self._goes_on("train", step, inputs)

        def make() -> None:
            if not goes_on:
                for folder in folders:
                    folder.clear()
            with self._observer.training() as watching:
                of_seed = replace(asked, seeds=(seed,))
                train(of_seed, watching, self._folder / name, overwrite=True, resume=True, more_follows=True)

        self._step("train", step, inputs, [file for folder in folders for file in folder.files], make)

    def _compare(self) -> RunReport:
        self._observer.begins("compare", "compare")
        runs = {
            each.name: ResultRun(each.name, Results.read(self._folder / each.name / Results.FILE))
            for each in self._networks
        }
        single = runs.get(SINGLE_TASK)
        results = compare_results(list(runs.values()), single_task=single)
        manifest = Manifest.read(manifest_path(self._branched(next(iter(variants(self._config.run))))))
        by_name = {compared.name: compared for compared in results.runs}
        answers = []
        for method in self._methods:
            shared, branched = slug(method), f"{slug(method)}-{RECON}"
            one, other = runs[shared], runs[branched]
            pair = compare_results([one, other]).runs[1]
            answers.append(
                Answer(
                    method=method,
                    shared=shared,
                    branched=branched,
                    improvement=pair.improvement.total,
                    bytes_ratio=by_name[branched].bytes / by_name[shared].bytes,
                    operations_ratio=pair.operations_ratio,
                    seconds_ratio=pair.seconds_ratio,
                )
            )
        return RunReport(
            tasks=self._config.task_names,
            severity=self._config.run.severity + 0.0,
            split=Split(
                layers=tuple(layer.name for layer in manifest.layers),
                parameters_before=manifest.sizes.before.parameters,
                parameters_after=manifest.sizes.after.parameters,
                cost=None if manifest.cost is None else manifest.cost.ratio,
            ),
            answers=tuple(answers),
            results=results,
            conflicts=self._compare_conflicts(),
        )

    def _compare_conflicts(self) -> ConflictComparison | None:
        if self._config.train.conflicts is None:
            return None
        seed = self._request.seeds[0]
        files = {
            each.name: TrainingFolder(network_folder(self._folder / each.name, seed, None)).scores
            for each in self._networks
            if not each.single_task
        }
        measured = [ConflictRun(name, Scores.read(file)) for name, file in files.items()]
        return compare_conflicts(measured, edges=_INTERVALS, bound=self._config.run.bound)

    def _step(
        self, stage: Stage, name: str, inputs: Mapping[str, Any], outputs: Sequence[Path], make: Callable[[], None]
    ) -> None:
        """Make a step, unless it was made before."""
        request = self._request
        if request.takes(stage):
            if not self._steps.is_there(name):
                raise ReconError(
                    f"--from {request.first} takes what the step {quoted(name)} wrote, which is gone or was changed",
                    f"begin with an earlier one: --from {stage}",
                )
            self._observer.skips(name)
            return
        if not request.makes_anew(stage) and self._steps.is_done(name, inputs):
            self._observer.skips(name)
            return
        self._observer.begins(stage, name)
        # It would tell of what was there before.
        (self._folder / REPORT).unlink(missing_ok=True)
        self._steps.make(name, inputs, outputs, make)

    def _goes_on(self, stage: Stage, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether a step that was begun may go on where it was."""
        return not self._request.makes_anew(stage) and self._steps.is_under_way(name, inputs)

    def _branched(self, variant: Variant) -> Path:
        return self._folder / "splits" / f"{variant.name}.safetensors"

    @property
    def _methods(self) -> Sequence[Method]:
        return self._config.run.methods or [self._config.method]

    @cached_property
    def _networks(self) -> list[_Trained]:
        """The networks in the order of the table: by rule, first the one as it is."""
        split, *controls = variants(self._config.run)
        found = []
        for place, method in enumerate(self._methods):
            found.append(_Trained(slug(method), method))
            # That other layers do not help as much has to be seen once.
            splits = [split, *controls] if place == 0 else [split]
            found += [_Trained(f"{slug(method)}-{variant.name}", method, variant) for variant in splits]
        found += [_Trained(SINGLE_TASK, JOINT, single_task=True)] if self._config.run.single_task else []
        return found

    @cached_property
    def _code(self) -> dict[str, Any]:
        """What a step that runs the network takes besides the config."""
        loaded = self._request.config
        return {
            "sources": source_digests(loaded),
            "files": [checkpoint_digest(file) for file in loaded.files[1:] if file.exists()],
            "recon": __version__,
            "torch": version("torch"),
            "device": self._request.device,
        }


@contextmanager
def _naming_the_section(variant: Variant) -> Iterator[None]:
    """Let errors of a split, which speak of the options of `recon split`, say where those stand."""
    try:
        yield
    except ReconError as error:
        where = "`run.select` in the config holds the options of the split"
        hint = where if error.hint is None else f"{error.hint}; {where}"
        raise ReconError(f"split {variant.name}: {error.message}", hint) from error
