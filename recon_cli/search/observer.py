"""Somebody who watches a search while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from recon_cli.artifacts.search import SearchStage


class Observer(Protocol):
    """Somebody who watches a search."""

    def chained(self, modules: Sequence[str]) -> None:
        """The trunk is taken apart into these modules."""

    def started(self, stage: int, steps: int, device: str) -> None:
        """A stage, counted from 1, begins, and how many steps it will have."""

    def advanced(self, step: int) -> None:
        """A step of the stage is done."""

    def learned(self, stage: SearchStage) -> None:
        """A stage is done."""

    def warned(self, message: str) -> None:
        """Something is probably not as it was meant."""
