"""What somebody at a terminal sees of a whole run: its steps, and the progress of each."""

from __future__ import annotations

from recon_cli.cli.output import Output
from recon_cli.cli.progress import ProfileProgress
from recon_cli.cli.training import TrainingProgress

_HOW_ON = "give the same command again"


class ChainProgress:
    """Watches a run for the terminal.

    :param sink: the command's output.
    """

    def __init__(self, sink: Output) -> None:
        self._sink = sink

    def begins(self, step: str, what: str) -> None:
        """Name the step."""
        self._sink.note(what if what.startswith(step) else f"{step}: {what}")

    def skips(self, step: str) -> None:
        """Say that there is nothing to do."""
        self._sink.note(f"{step} was done before")

    def warned(self, message: str) -> None:
        """Pass a warning on."""
        self._sink.warning(message)

    def profile(self) -> ProfileProgress:
        """Who watches the profile."""
        return ProfileProgress(self._sink, _HOW_ON)

    def training(self) -> TrainingProgress:
        """Who watches a training."""
        return TrainingProgress(self._sink, _HOW_ON)
