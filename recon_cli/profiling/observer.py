"""Somebody who watches a profile while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from recon_cli.profiling.leaders import Leader


class Observer(Protocol):
    """Somebody who watches a profile."""

    def started(self, steps: int, device: str, done: int) -> None:
        """The network is built: how many training steps there are, and how many were made by a run that goes on now."""

    def advanced(self, step: int, leaders: Callable[[], list[Leader]]) -> None:
        """A step is done; `leaders` gives the layers that lead so far, if they are wanted."""

    def restarted(self, times: int) -> None:
        """The data ran out and was started over for the `times`-th time."""

    def noted(self, message: str) -> None:
        """Something is worth knowing."""

    def warned(self, message: str) -> None:
        """Something is probably not as it was meant."""

    def kept(self, path: Path, iterations: int) -> None:
        """The run failed; what was measured until then was written to `path`."""

    def suspended(self, folder: Path, step: int | None) -> None:
        """The run was asked to stop; `folder` keeps it as it was after `step`, or as it was last saved."""
