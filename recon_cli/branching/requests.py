"""What `recon split` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon_cli.artifacts.ranking import Ranking
from recon_cli.errors import ReconError, number


@dataclass(frozen=True)
class SelectionRequest:
    """How the user chose the layers: exactly one of these is set."""

    top_k: int | None = None
    min_score: float | None = None
    budget: str | None = None
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.top_k, self.min_score, self.budget, self.layers) if value is not None]
        if len(given) != 1:
            raise ReconError(
                f"{len(given)} ways to choose the layers are given; exactly one is needed",
                "pass one of --top-k, --min-score, --budget and --layers",
            )

    def described(self) -> tuple[Literal["top-k", "min-score", "budget", "layers"], str]:
        """The policy and its argument, as the manifest names them."""
        if self.top_k is not None:
            return "top-k", str(self.top_k)
        if self.min_score is not None:
            return "min-score", number(self.min_score)
        if self.budget is not None:
            return "budget", self.budget
        return "layers", ",".join(self.layers or ())


@dataclass(frozen=True)
class SplitRequest:
    """What `recon split` was asked to do."""

    checkpoint: Path
    selection: SelectionRequest
    ranking: Ranking | None
    tasks: tuple[str, ...] | None
    ranking_file: Path | None = None
