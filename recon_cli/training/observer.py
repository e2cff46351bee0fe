"""Somebody who watches a training while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from recon_cli.artifacts.training import Figures


class Observer(Protocol):
    """Somebody who watches a training."""

    def started(self, title: str, device: str, epochs: int | None, steps: int | None, done: int) -> None:
        """A network is built.

        :param title: which one: its seed, and its task if it has but one.
        :param epochs: how many there are, where the length is in epochs.
        :param steps: how many steps there are, if that is known.
        :param done: how many were made by a run that goes on now.
        """

    def advanced(self, step: int, epoch: int) -> None:
        """A step is done."""

    def trained(self, losses: Mapping[str, float | None], rates: list[float]) -> None:
        """The mean losses of the last steps, and the learning rates."""

    def evaluated(self, epoch: int, figures: Figures, *, is_best: bool) -> None:
        """The network was evaluated."""

    def finished(self) -> None:
        """A network is trained."""

    def noted(self, message: str) -> None:
        """Something is worth knowing."""

    def warned(self, message: str) -> None:
        """Something is probably not as it was meant."""

    def suspended(self, folder: Path, step: int | None) -> None:
        """The run was asked to stop; `folder` keeps it as it was after `step`, or as it was last saved."""
