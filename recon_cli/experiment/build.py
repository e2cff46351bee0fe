"""From a config to a model, tasks, batches and an optimizer that are ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.branching.manifests import find_manifest
from recon_cli.checkpoints.identity import checkpoint_digest
from recon_cli.checkpoints.state_dict import load_into
from recon_cli.config.loading import config_error
from recon_cli.config.schema import LoadedConfig
from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.batches import Batches
from recon_cli.experiment.branching import Branching
from recon_cli.experiment.losses import Task
from recon_cli.experiment.optimization import Optimization, find_optimizer, find_scheduler
from recon_cli.experiment.ranks import ALONE, Ranks
from recon_cli.experiment.sharding import check_can_be_sharded, shard
from recon_cli.experiment.sources import load_network
from recon_cli.experiment.targets import find_target


@dataclass(frozen=True)
class Experiment:
    """What a run needs, on its device.

    :ivar tasks: all tasks that the network has outputs for.
    :ivar active: the indices of those that take part.
    :ivar written: the network as its code has it; another one than `model` if that was branched.
    :ivar manifest: how it was branched, if it was.
    :ivar checkpoint_digest: digest of the checkpoint that the weights were read from, if any.
    :ivar model_digest: digest of the file that holds the network, if it was read from one.
    :ivar warnings: what about the network is probably not as its user wants it.
    :ivar is_sharded: whether the parameters are sharded over the ranks, which then start from the same weights.
    """

    model: nn.Module
    tasks: tuple[Task, ...]
    active: tuple[int, ...]
    batches: Batches
    optimization: Optimization
    device: torch.device
    written: nn.Module
    manifest: Manifest | SplitPlan | None
    checkpoint_digest: str | None
    model_digest: str | None = None
    warnings: tuple[str, ...] = ()
    is_sharded: bool = False

    def align(self, ranks: Ranks, seed: int) -> None:
        """Let all ranks start from the weights of the first, and draw random numbers of their own from then on."""
        if not self.is_sharded:
            ranks.copy_first([*self.model.parameters(), *self.model.buffers()])
        if ranks.rank > 0:
            torch.manual_seed(seed + ranks.rank)


def build_experiment(
    loaded: LoadedConfig,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None,
    allow_code: bool = False,
    ranks: Ranks = ALONE,
    branching: Branching | None = None,
    only: str | None = None,
    sharded: bool = False,
) -> Experiment:
    """Make what a config describes. The random number generators should be seeded before.

    :param checkpoint: weights to start from, instead of those that the config names; of the branched network, if it is.
    :param allow_code: whether a file that holds the network may be opened although that can run code from it.
    :param ranks: the processes that train the network together.
    :param branching: how the network is branched.
    :param only: the one task that takes part; None for all.
    :param sharded: whether each of the ranks is to hold but a part of the parameters.
    :raises ReconError: listing every target that cannot be found, or naming the one that failed.
    """
    config = loaded.config
    _check_targets(loaded)
    if sharded:
        check_can_be_sharded(config, branched=branching is not None)
    # A network that is sharded may be too large for a device.
    network = load_network(loaded, torch.device("cpu") if sharded else device, allow_code=allow_code)
    source = None if config.model.checkpoint is None else loaded.folder / config.model.checkpoint
    if source is not None and (checkpoint is None or branching is not None):
        load_into(network.module, source)
    model = network.module if branching is None else branching.branch(network.module, config.task_names)
    if checkpoint is not None:
        _load_start(model, checkpoint, is_branched=branching is not None)
    if sharded:
        shard(model, ranks, device)
    used = checkpoint or source
    return Experiment(
        model,
        tuple(Task.from_section(section) for section in config.tasks),
        tuple(range(len(config.tasks))) if only is None else (config.task_names.index(only),),
        Batches(config.data, seed, device, ranks),
        Optimization(config, model, device),
        device,
        network.module,
        None if branching is None else branching.manifest,
        None if used is None else checkpoint_digest(used),
        network.digest,
        network.warnings,
        sharded,
    )


def _load_start(model: nn.Module, checkpoint: Path, *, is_branched: bool) -> None:
    try:
        load_into(model, checkpoint)
    except ReconError as error:
        if is_branched or checkpoint.is_dir() or find_manifest(checkpoint) is None:
            raise
        raise ReconError(error.message, "it is branched; `recon train` takes it with --manifest as well") from None


def _check_targets(loaded: LoadedConfig) -> None:
    config = loaded.config
    lookups: dict[str, Callable[[], Any]] = {
        "data.target": lambda: find_target(config.data.target),
        "optimizer.target": lambda: find_optimizer(config.optimizer.target),
    }
    if (target := config.model.target) is not None:
        lookups = {"model.target": lambda: find_target(target), **lookups}
    if (schedule := config.scheduler) is not None:
        lookups["scheduler.target"] = lambda: find_scheduler(schedule.target)
    for index, section in enumerate(config.tasks):
        lookups[f"tasks.{index}.loss"] = lambda section=section: Task.from_section(section)  # type: ignore[misc]
    problems = []
    cause: ReconError | None = None
    for where, look_up in lookups.items():
        try:
            look_up()
        except ReconError as error:
            cause = error
            problems.append(f"{quoted(where)}: {error.message}" + (f"; {error.hint}" if error.hint else ""))
    if problems:
        raise config_error(loaded.path, problems) from cause
