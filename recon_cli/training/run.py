"""`recon train`: networks trained one after the other, each in a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recon_cli.artifacts.digests import digest_file
from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.publish import make_folder
from recon_cli.artifacts.training import Results, Training
from recon_cli.checkpoints.identity import checkpoint_digest
from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.device import choose_device, device_name, repeatable
from recon_cli.experiment.ranks import Ranks, joined_ranks
from recon_cli.experiment.targets import search_path
from recon_cli.runs.identity import check_same
from recon_cli.runs.interruption import Interrupted, unnoticed_workers
from recon_cli.runs.keeping import StateKeeper
from recon_cli.runs.observer import Nobody
from recon_cli.training.folder import TrainingFolder
from recon_cli.training.network import NetworkRun
from recon_cli.training.observer import Observer
from recon_cli.training.request import TrainRequest
from recon_cli.training.results import results_of
from recon_cli.training.trackers import check_installed


@dataclass(frozen=True)
class _Network:
    """A network that is to be trained.

    :ivar task: the one task that it is trained for; None for all.
    """

    seed: int
    task: str | None
    folder: TrainingFolder

    @property
    def title(self) -> str:
        """What the network is called at the terminal."""
        return f"seed {self.seed}" if self.task is None else f"seed {self.seed}, {self.task}"


def train(
    request: TrainRequest,
    observer: Observer,
    output: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    more_follows: bool = False,
) -> Results:
    """Train a network, jointly or by an update rule, for every seed; or one for every task.

    `output` gets `results.json`, and a folder `seed-N` for every seed, in which a network for one task has a folder of
    its own. While a network is trained, its folder keeps its state in `run`; SIGINT and SIGTERM let it finish its step,
    save, and end by KeyboardInterrupt or SystemExit(143).

    :param output: the folder.
    :param overwrite: whether what another training left there is replaced.
    :param resume: whether to go on with what was begun there, if anything was. It ends in the same bytes as if it had
        not been interrupted, but for the times in the documents.
    :param more_follows: whether the process goes on after it, so that a signal in the last step, too, has to stop it.
    :raises ReconError: if the config does not work, or the folder holds another training.
    """
    if output == STANDARD_STREAM:
        raise ReconError("a training writes a folder, which standard output cannot take", "name one: `-o runs/joint`")
    # The user's code may change the working folder.
    output = output.absolute()
    device = choose_device(request.device or request.config.config.device)
    # Standard output is for data, whatever the user's code prints.
    with search_path(request.config.folder), redirect_stdout(sys.stderr), joined_ranks(device) as ranks:
        # One rank speaks and writes for all.
        observer = observer if ranks.rank == 0 else Nobody()
        if request.config.config.train.sharded and ranks.size == 1:
            observer.noted("`train.sharded` changes nothing, as one process by itself holds the whole network")
        networks = [
            _Network(seed, task, TrainingFolder(network_folder(output, seed, task)))
            for seed in request.all_seeds
            for task in request.networks
        ]
        with ranks.together():
            if ranks.rank == 0:
                check_installed(request.config.config.train.trackers)
                _check_output(request, output, networks, may_exist=overwrite or resume)
        trained = []
        for place, network in enumerate(networks):
            # What lies there goes when the first network has been made: no slip in a config costs an older result.
            clear = partial(_clear, output, networks) if place == 0 and not resume else None
            is_last = place == len(networks) - 1 and not more_follows
            trained.append(
                _train(request, network, device, observer, ranks, resume=resume, clear=clear, is_last=is_last)
            )
        results = results_of(trained, request)
        with ranks.together():
            if ranks.rank == 0:
                results.write(output / Results.FILE, overwrite=True)
    return results


def network_folder(output: Path, seed: int, task: str | None) -> Path:
    """Where the network of a seed, or of a seed and the one task that it is for, is written.

    :param output: the folder of the training.
    """
    folder = output / f"seed-{seed}"
    return folder if task is None else folder / task


def _check_output(request: TrainRequest, output: Path, networks: Sequence[_Network], *, may_exist: bool) -> None:
    """Refuse a folder that cannot be written to, or is not to be."""
    for place in (output, *output.parents):
        if place.exists() and not place.is_dir():
            raise ReconError(f"{quoted(place)} is a file, but a folder is to be written", "choose another name")
    if not may_exist and output.exists() and any(output.iterdir()):
        raise ReconError(
            f"the folder {quoted(output)} is not empty",
            "pass --resume to go on with what was begun there, --force to replace it, or choose another name",
        )
    given = (request.checkpoint, None if request.branching is None else request.branching.path)
    inputs = [*request.config.files, *(path for path in given if path is not None)]
    for network in networks:
        network.folder.check_apart(inputs)


def _clear(output: Path, networks: Sequence[_Network]) -> None:
    """Remove what an earlier training of these networks left."""
    for network in networks:
        network.folder.clear()
    (output / Results.FILE).unlink(missing_ok=True)


def _train(
    request: TrainRequest,
    network: _Network,
    device: torch.device,
    observer: Observer,
    ranks: Ranks,
    *,
    resume: bool,
    clear: Callable[[], None] | None,
    is_last: bool,
) -> Training:
    """Train a network, unless that was done before.

    :param clear: takes away what an earlier training left, if anything is to go.
    :param is_last: whether none is trained after this one.
    """
    folder = network.folder
    with ranks.together():
        done = _finished(request, network) if ranks.rank == 0 and resume else None
    done = ranks.from_first(done)
    if done is not None:
        observer.noted(f"{network.title} was trained before")
        if ranks.rank == 0:
            # It is still there if the process was killed at the very end.
            _drop_state(folder, observer)
        return done
    with repeatable(network.seed):
        with ranks.together():
            run = NetworkRun(request, network.seed, network.task, device, folder, ranks)
        run.try_out()
        # Only when all ranks have come so far, so that none of them leaves an empty folder behind.
        with ranks.together():
            if ranks.rank == 0 and clear is not None:
                clear()
            state = _begin(run, folder, observer, resume=resume) if ranks.rank == 0 else None
        run.experiment.align(ranks, network.seed)
        state = run.from_first(state)
        if state is not None:
            with ranks.together():
                run.restore(state, quoted(folder.run.path))
        for warning in run.experiment.warnings:
            observer.warned(warning)
        epochs, _ = request.length
        keeper = StateKeeper(folder.run if ranks.rank == 0 else None, run.state, observer.warned)
        with run.trackers.tracking(observer.warned), _keeping(run, folder, keeper, observer):
            observer.started(network.title, device_name(device), epochs, run.steps, run.training.step)
            if state is not None and request.config.config.train.trackers:
                keeper.save()
            run.train(observer, keeper, is_last=is_last)
            with ranks.together():
                document = run.publish(observer)
        trained = ranks.from_first(document)
        if ranks.rank == 0:
            _drop_state(folder, observer)
    observer.finished()
    return trained


def _drop_state(folder: TrainingFolder, observer: Observer) -> None:
    try:
        folder.run.remove()
    except ReconError as error:
        observer.warned(error.message)


def _finished(request: TrainRequest, network: _Network) -> Training | None:
    """What a network came to that is trained already.

    :raises ReconError: if it was trained otherwise than now.
    """
    path = network.folder.document
    if not path.exists():
        return None
    document = Training.read(path)
    epochs, iterations = request.length
    branching, checkpoint = request.branching, request.start
    now = {
        "config": request.config_digest,
        "manifest": None if branching is None else branching.digest,
        "reinitialised": branching is not None and branching.reinitialise,
        "method": request.rule.model_dump_json(),
        "epochs": epochs,
        "iterations": iterations,
        "checkpoint": None if checkpoint is None else checkpoint_digest(checkpoint),
        "model": None if (file := request.config.network_file) is None else digest_file(file),
    }
    was = {
        "config": document.config_digest,
        "manifest": document.manifest_digest,
        "reinitialised": document.reinitialised,
        "method": document.method.model_dump_json(),
        "epochs": document.epochs if document.iterations is None else None,
        "iterations": document.iterations,
        "checkpoint": document.checkpoint_digest,
        "model": document.model_digest,
    }
    check_same(was, now, quoted(network.folder.path))
    return document


def _begin(run: NetworkRun, folder: TrainingFolder, observer: Observer, *, resume: bool) -> dict[str, Any] | None:
    """The state of the training to go on with, or None for one that begins."""
    if resume and folder.run.has_state:
        return folder.run.load()
    if resume and folder.run.exists:
        observer.noted(f"the run in {quoted(folder.run.path)} saved nothing yet; starting from the beginning")
        folder.clear()
    elif resume:
        folder.check_begun()
    make_folder(folder.path)
    folder.run.create()
    run.log.begin()
    return None


@contextmanager
def _keeping(run: NetworkRun, folder: TrainingFolder, keeper: StateKeeper, observer: Observer) -> Iterator[None]:
    """Keep the state of a training that is interrupted, and say where that of one lies that failed."""
    try:
        yield
    except Interrupted as interruption:
        with unnoticed_workers():
            run.experiment.batches.close()
        if interruption.between_steps and keeper.save():
            observer.suspended(folder.run.path, run.training.step)
        elif folder.run.has_state:
            observer.suspended(folder.run.path, None)
        raise interruption.end() from None
    except Exception:
        if folder.run.has_state:
            observer.suspended(folder.run.path, None)
        raise
