"""`recon train`: networks trained one after the other, each in a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recon_cli.artifacts.digests import digest_file
from recon_cli.artifacts.training import Results, Training
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

RESULTS = "results.json"
"""What the folder of a training holds besides those of its networks."""


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
    # The user's code may change the working folder.
    output = output.absolute()
    device = choose_device(request.device or request.config.config.device)
    # Standard output is for data, whatever the user's code prints.
    with search_path(request.config.folder), redirect_stdout(sys.stderr), joined_ranks(device) as ranks:
        # One rank speaks and writes for all.
        observer = observer if ranks.rank == 0 else Nobody()
        networks = [
            _Network(seed, task, TrainingFolder(network_folder(output, seed, task)))
            for seed in request.all_seeds
            for task in request.networks
        ]
        with ranks.together():
            if ranks.rank == 0:
                _prepare(output, networks, overwrite=overwrite, resume=resume)
        trained = [
            _train(
                request, network, device, observer, ranks,
                resume=resume, more_follows=more_follows or network is not networks[-1],
            )
            for network in networks
        ]  # fmt: skip
        results = results_of(trained, request)
        with ranks.together():
            if ranks.rank == 0:
                results.write(output / RESULTS, overwrite=True)
    return results


def network_folder(output: Path, seed: int, task: str | None) -> Path:
    """Where the network of a seed, or of a seed and the one task that it is for, is written.

    :param output: the folder of the training.
    """
    folder = output / f"seed-{seed}"
    return folder if task is None else folder / task


def _prepare(output: Path, networks: list[_Network], *, overwrite: bool, resume: bool) -> None:
    """Make the folder ready, or refuse it."""
    if output.exists() and not output.is_dir():
        raise ReconError(f"{quoted(output)} is a file, but a folder is to be written", "choose another name")
    if not (overwrite or resume) and output.exists() and any(output.iterdir()):
        raise ReconError(
            f"the folder {quoted(output)} is not empty",
            "pass --resume to go on with what was begun there, --force to replace it, or choose another name",
        )
    if overwrite and not resume:
        for network in networks:
            network.folder.clear()
    with suppress(FileNotFoundError):
        (output / RESULTS).unlink()


def _train(
    request: TrainRequest,
    network: _Network,
    device: torch.device,
    observer: Observer,
    ranks: Ranks,
    *,
    resume: bool,
    more_follows: bool,
) -> Training:
    """Train a network, unless that was done before.

    :param more_follows: whether a signal in the last step stops the run as well.
    """
    folder = network.folder
    with ranks.together():
        done = _finished(request, network) if ranks.rank == 0 else None
    done = ranks.from_first(done)
    if done is not None:
        observer.noted(f"{network.title} was trained before")
        return done
    with repeatable(network.seed):
        with ranks.together():
            run = NetworkRun(request, network.seed, network.task, device, folder, ranks)
        # Only when all ranks have come so far, so that none of them leaves an empty folder behind.
        with ranks.together():
            state = _begin(run, folder, observer, resume=resume) if ranks.rank == 0 else None
        run.align()
        state = ranks.from_first(state)
        if state is not None:
            with ranks.together():
                run.restore(state, quoted(folder.run.path))
        for warning in run.experiment.warnings:
            observer.warned(warning)
        epochs, _ = request.length
        observer.started(network.title, device_name(device), epochs, run.steps, run.training.step)
        keeper = StateKeeper(folder.run if ranks.rank == 0 else None, run.state, observer.warned)
        with _keeping(run, folder, keeper, observer):
            run.train(observer, keeper, more_follows=more_follows)
            with ranks.together():
                document = run.publish() if ranks.rank == 0 else None
        trained = ranks.from_first(document)
        assert trained is not None
        if ranks.rank == 0:
            try:
                folder.run.remove()
            except ReconError as error:
                observer.warned(error.message)
    observer.finished()
    return trained


def _finished(request: TrainRequest, network: _Network) -> Training | None:
    """What a network came to that is trained already.

    :raises ReconError: if it was trained otherwise than now.
    """
    path = network.folder.document
    if not path.exists():
        return None
    document = Training.read(path)
    epochs, iterations = request.length
    branching, checkpoint = request.branching, request.checkpoint
    now = {
        "config": request.config_digest,
        "manifest": None if branching is None else branching.digest,
        "reinitialised": branching is not None and branching.reinitialise,
        "method": request.rule.model_dump_json(),
        "epochs": epochs,
        "iterations": iterations,
    }
    was = {
        "config": document.config_digest,
        "manifest": document.manifest_digest,
        "reinitialised": document.reinitialised,
        "method": document.method.model_dump_json(),
        "epochs": None if epochs is None else document.epochs,
        "iterations": None if iterations is None else document.steps,
    }
    if checkpoint is not None:
        now["checkpoint"], was["checkpoint"] = digest_file(checkpoint), document.checkpoint_digest
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
    folder.create()
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
