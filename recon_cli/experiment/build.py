"""From a config to a model, tasks, batches and an optimizer that are ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recon_cli.artifacts.digests import digest_file
from recon_cli.checkpoints.state_dict import load_into
from recon_cli.config.loading import config_error
from recon_cli.config.schema import Config, LoadedConfig
from recon_cli.errors import ReconError, did_you_mean, quoted
from recon_cli.experiment.batches import Batches
from recon_cli.experiment.losses import Task
from recon_cli.experiment.ranks import ALONE, Ranks
from recon_cli.experiment.sources import load_network
from recon_cli.experiment.targets import find_target, user_code


@dataclass(frozen=True)
class Experiment:
    """What a run needs, on its device.

    :ivar checkpoint_digest: digest of the checkpoint that the weights were read from, if any.
    :ivar model_digest: digest of the file that holds the network, if it was read from one.
    :ivar warnings: what about the network is probably not as its user wants it.
    """

    model: nn.Module
    tasks: tuple[Task, ...]
    batches: Batches
    optimizer: torch.optim.Optimizer
    device: torch.device
    checkpoint_digest: str | None
    model_digest: str | None = None
    warnings: tuple[str, ...] = ()


def build_experiment(
    loaded: LoadedConfig,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None,
    allow_code: bool = False,
    ranks: Ranks = ALONE,
) -> Experiment:
    """Make what a config describes. The random number generators should be seeded before.

    :param checkpoint: weights to start from, instead of those that the config names.
    :param allow_code: whether a file that holds the network may be opened although that can run code from it.
    :param ranks: the processes that train the network together.
    :raises ReconError: listing every target that cannot be found, or naming the one that failed.
    """
    config = loaded.config
    _check_targets(loaded)
    network = load_network(loaded, device, allow_code=allow_code)
    if checkpoint is None and config.model.checkpoint is not None:
        checkpoint = loaded.folder / config.model.checkpoint
    if checkpoint is not None:
        load_into(network.module, checkpoint)
    batches = Batches(config.data, seed, device, ranks)
    optimizer = _make_optimizer(config, network.module)
    tasks = tuple(Task.from_section(section) for section in config.tasks)
    digest = None if checkpoint is None else digest_file(checkpoint)
    return Experiment(network.module, tasks, batches, optimizer, device, digest, network.digest, network.warnings)


def _check_targets(loaded: LoadedConfig) -> None:
    config = loaded.config
    lookups: dict[str, Callable[[], Any]] = {
        "data.target": lambda: find_target(config.data.target),
        "optimizer.target": lambda: _find_optimizer(config.optimizer.target),
    }
    if (target := config.model.target) is not None:
        lookups = {"model.target": lambda: find_target(target), **lookups}
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


def _find_optimizer(target: str) -> Callable[..., Any]:
    if ":" in target:
        return find_target(target)
    found = getattr(torch.optim, target, None)
    if not callable(found):
        known = [name for name in dir(torch.optim) if name[0].isupper() and name != "Optimizer"]
        raise ReconError(f"torch.optim has no optimizer {quoted(target)}", did_you_mean(target, known))
    return found  # type: ignore[no-any-return]


def _make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    target = config.optimizer.target
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ReconError("the model has no trainable parameter")
    make = _find_optimizer(target)
    with user_code(f"optimizer.target {quoted(target)}"):
        optimizer = make(parameters, **config.optimizer.kwargs)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ReconError(
            f"optimizer.target {quoted(target)} returned a {quoted(type(optimizer).__name__)}; "
            f"a torch.optim.Optimizer was expected"
        )
    return optimizer
