"""Somebody who watches a whole run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from recon_cli.profiling.observer import Observer as ProfileObserver
from recon_cli.training.observer import Observer as TrainingObserver


class Observer(Protocol):
    """Somebody who watches a run."""

    def begins(self, step: str, what: str) -> None:
        """A step begins."""

    def skips(self, step: str) -> None:
        """A step was made before."""

    def warned(self, message: str) -> None:
        """Something is probably not as it was meant."""

    def profile(self) -> AbstractContextManager[ProfileObserver]:
        """Who watches the profile."""

    def training(self) -> AbstractContextManager[TrainingObserver]:
        """Who watches a training."""
