"""What `recon run` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.chain.stages import STAGES, Stage
from recon_cli.config.schema import LoadedConfig
from recon_cli.errors import ReconError


@dataclass(frozen=True)
class RunRequest:
    """What `recon run` was asked to do.

    :ivar folder: of results.
    :ivar first: the stage that is made anew, with all that follow; those before are taken as they are. None to make
        what has to be made.
    :ivar last: the stage to end with.
    :ivar asked_seeds: those of the trainings; None for the config's.
    :ivar allow_code: whether the network's file may be opened although that can run code from it.
    :raises ReconError: if the parts contradict each other, or the config names no validation data.
    """

    config: LoadedConfig
    folder: Path
    first: Stage | None = None
    last: Stage = "compare"
    asked_seeds: tuple[int, ...] | None = None
    asked_device: str | None = None
    allow_code: bool = False

    def __post_init__(self) -> None:
        if self.folder == STANDARD_STREAM:
            raise ReconError("a run writes a folder, which standard output cannot take", "name one: `-o results`")
        if self.config.config.validation is None:
            raise ReconError(
                "the networks are compared on validation data, which the config does not name",
                "add a section `validation`, and `metrics` to the tasks",
            )
        if self.first is not None and STAGES.index(self.first) > STAGES.index(self.last):
            raise ReconError(f"--from {self.first} comes after --until {self.last}", "swap them")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the trainings."""
        config = self.config.config
        return self.asked_seeds or tuple(config.run.seeds or [config.seed])

    @property
    def device(self) -> str:
        """Where it runs: `auto`, `cuda` or `cpu`."""
        return self.asked_device or self.config.config.device

    def takes(self, stage: Stage) -> bool:
        """Whether what a stage wrote is taken as it is."""
        return self.first is not None and STAGES.index(stage) < STAGES.index(self.first)

    def makes_anew(self, stage: Stage) -> bool:
        """Whether a stage is made anew whatever is there."""
        return self.first is not None and STAGES.index(stage) >= STAGES.index(self.first)
