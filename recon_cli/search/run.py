"""`recon search`: from a config to what a search for an architecture found."""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from recon_cli._version import __version__
from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.publish import check_output
from recon_cli.artifacts.search import SearchedLayer, SearchedModule, SearchResult, SearchStage
from recon_cli.artifacts.versions import Versions
from recon_cli.config.schema import DEFAULT_EPOCHS, DataSection, LoadedConfig
from recon_cli.errors import ReconError
from recon_cli.experiment.batches import Batch, Batches
from recon_cli.experiment.build import Experiment, build_experiment
from recon_cli.experiment.device import choose_device, device_name, repeatable
from recon_cli.experiment.flow import flow_on
from recon_cli.experiment.targets import search_path
from recon_cli.search.candidates import branch_point, partition
from recon_cli.search.chain import Chain, find_chain
from recon_cli.search.learning import Learning, Material
from recon_cli.search.method import Found, SearchMethod
from recon_cli.search.methods import find_method
from recon_cli.search.observer import Observer
from recon_cli.torchrun import is_one_of_many


@dataclass(frozen=True)
class SearchRequest:
    """What `recon search` was asked to do; what is None is taken from the config.

    :ivar epochs: of each stage, passes over the training data.
    :ivar iterations: of each stage, steps in place of epochs.
    :ivar checkpoint: weights to start from.
    """

    config: LoadedConfig
    method: str
    epochs: int | None = None
    iterations: int | None = None
    seed: int | None = None
    device: str | None = None
    checkpoint: Path | None = None


def search(request: SearchRequest, observer: Observer, output: Path | None, *, overwrite: bool = False) -> SearchResult:
    """Search an architecture: which tasks share which modules of the network's trunk.

    :param output: the file of what is found, `-` for standard output, or None for none.
    :param overwrite: whether an existing file is replaced.
    :raises ReconError: if the config does not work, there is no such method, the trunk is no chain of modules, or a
        loss becomes NaN or infinite.
    """
    method = find_method(request.method)
    _check(request, method)
    seed = request.config.config.seed if request.seed is None else request.seed
    # The user's code may change the working folder.
    output = output if output is None or output == STANDARD_STREAM else output.absolute()
    if output is not None and output != STANDARD_STREAM:
        check_output(output, overwrite=overwrite, inputs=request.config.files)
    device = choose_device(request.device or request.config.config.device)
    # Standard output is for data, whatever the user's code prints.
    with search_path(request.config.folder), repeatable(seed), redirect_stdout(sys.stderr):
        run = _Run(request, method, seed, device, observer)
        begun = time.perf_counter()
        found = method.search(run)
        result = run.result(found, time.perf_counter() - begun)
    if output is not None:
        result.write(output, overwrite=overwrite)
    return result


def _check(request: SearchRequest, method: SearchMethod) -> None:
    config = request.config.config
    if is_one_of_many():
        raise ReconError("a search runs in one process", "start it without `torchrun`")
    if config.model.target is None:
        raise ReconError(
            "a search takes the network's code apart, and a file of TorchScript or of an exported program holds none",
            "name what makes the network under `model.target`",
        )
    if method.validates and config.validation is None:
        raise ReconError(
            "the config has no section `validation`, and a search learns on its data where tasks part",
            "name data there that is not trained on",
        )
    if not method.samples and config.search.sampling is not None:
        raise ReconError(
            f"the config has `search.sampling`, which {request.method} makes no use of",
            "leave it out, or search by bmtas or ltb",
        )


class _Run:
    """A search, and what its stages learn from."""

    def __init__(
        self, request: SearchRequest, method: SearchMethod, seed: int, device: torch.device, observer: Observer
    ) -> None:
        config = request.config.config
        self._request, self._seed, self._observer = request, seed, observer
        self._experiment = build_experiment(request.config, seed=seed, device=device, checkpoint=request.checkpoint)
        validation = _validation(request.config, seed, device) if method.validates else None
        self.material = Material(config, self._experiment, validation)
        self.tasks = config.task_names
        batch = next(self._experiment.batches)
        self.chain = find_chain(self._experiment.model, self.tasks, batch, config.search.chain)
        self.flow = _flow(self._experiment, batch, observer)
        self._stages = 0
        observer.chained(self.chain.names)

    def learn(self, stage: Learning) -> SearchStage:
        """Make a stage."""
        steps = self.steps
        self._stages += 1
        self._observer.started(self._stages, steps, device_name(self._experiment.device))
        while stage.step < steps:
            stage.advance()
            self._observer.advanced(stage.step)
        record = stage.record()
        self._observer.learned(record)
        return record

    def result(self, found: Found, seconds: float) -> SearchResult:
        """What was found, as a document."""
        return SearchResult(
            method=self._request.method,
            tasks=self.tasks,
            modules=tuple(_module(self.chain, place, found) for place in range(len(self.chain.modules))),
            branch_points=tuple(branch_point(path) for path in found.paths.values()),
            stages=found.stages,
            steps=sum(stage.steps for stage in found.stages),
            seconds=seconds,
            seed=self._seed,
            device=device_name(self._experiment.device),
            config_digest=self._request.config.digest,
            checkpoint_digest=self._experiment.checkpoint_digest,
            versions=Versions(recon=__version__, torch=torch.__version__),
            flow=self.flow,
        )

    @property
    def steps(self) -> int:
        """The steps of a stage."""
        section, request = self._request.config.config.search, self._request
        epochs, iterations = request.epochs, request.iterations
        if epochs is None and iterations is None:
            epochs, iterations = section.epochs, section.iterations
        if iterations is not None:
            return iterations
        batches = self._experiment.batches.length
        if batches is None:
            raise ReconError(
                "the data does not say how many batches it has, so the length of a search cannot be in epochs",
                "give `iterations` under `search`, or pass --iterations",
            )
        return max(1, (epochs or DEFAULT_EPOCHS) * batches // self._experiment.optimization.accumulate)


def _validation(loaded: LoadedConfig, seed: int, device: torch.device) -> Batches:
    """The validation data in batches like those of the training data, shuffled."""
    section, data = loaded.config.validation, loaded.config.data
    assert section is not None
    batched = DataSection(
        target=section.target,
        kwargs=section.kwargs,
        batch_size=data.batch_size,
        drop_last=data.drop_last,
        workers=section.workers,
        inputs=section.inputs or data.inputs,
    )
    return Batches(batched, seed, device, key="validation")


def _flow(experiment: Experiment, batch: Batch, observer: Observer) -> Dataflow | None:
    """The network's data flow, which a search does not depend on."""
    try:
        return flow_on(experiment, batch)
    except ReconError as error:
        observer.warned(f"it will not be known what splits cost in operations: {error.message}")
        return None


def _module(chain: Chain, place: int, found: Found) -> SearchedModule:
    module = chain.modules[place]
    return SearchedModule(
        name=module.name,
        layers=tuple(SearchedLayer(name=layer.name, aliases=layer.aliases) for layer in module.layers),
        parameters=module.size,
        groups=partition(found.paths, place),
    )
