"""What `recon train` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recon_cli.artifacts.method import JOINT, Method
from recon_cli.config.schema import DEFAULT_EPOCHS, LoadedConfig
from recon_cli.experiment.branching import Branching

_SECTIONS = ("model", "tasks", "data", "validation", "optimizer", "scheduler", "precision", "train")


@dataclass(frozen=True)
class TrainRequest:
    """What `recon train` was asked to do; what is None is taken from the config.

    :ivar seeds: one training each; None for the config's seed alone.
    :ivar single_task: whether every task has a network of its own.
    :ivar branching: how the network is branched; None for the network as it is.
    :ivar checkpoint: weights to start from, those of the branched network if it is one.
    :ivar allow_code: whether the network's file may be opened although that can run code from it.
    """

    config: LoadedConfig
    seeds: tuple[int, ...] | None = None
    single_task: bool = False
    branching: Branching | None = None
    checkpoint: Path | None = None
    epochs: int | None = None
    iterations: int | None = None
    method: Method | None = None
    device: str | None = None
    allow_code: bool = False

    @property
    def start(self) -> Path | None:
        """The file of the weights that training starts from, if there is one."""
        named = self.config.config.model.checkpoint
        return self.checkpoint or (None if named is None else self.config.folder / named)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the trainings."""
        return (self.config.config.seed,) if self.seeds is None else self.seeds

    @property
    def rule(self) -> Method:
        """The update rule; one task has nothing to balance."""
        return JOINT if self.single_task else self.method or self.config.config.method

    @property
    def config_digest(self) -> str:
        """The digest of what a training takes from the config, but for its rule and its seed."""
        # Who is told of it changes nothing of a training.
        without = {"train": {"trackers"}}
        if self.config.config.train.conflicts is None:
            return self.config.digest_of(*_SECTIONS, without=without)
        # What is measured is said there; how long and on which steps is that of a profile.
        without["profile"] = {"iterations", "samples", "every"}
        return self.config.digest_of(*_SECTIONS, "profile", without=without)

    @property
    def networks(self) -> tuple[str | None, ...]:
        """For each network of a seed the one task that it is trained for; None for all tasks."""
        return self.config.config.task_names if self.single_task else (None,)

    @property
    def length(self) -> tuple[int | None, int | None]:
        """Epochs and iterations, of which one is None."""
        settings = self.config.config.train
        if self.epochs is not None or self.iterations is not None:
            return self.epochs, self.iterations
        if settings.iterations is not None:
            return None, settings.iterations
        return settings.epochs or DEFAULT_EPOCHS, None
