"""What somebody at a terminal sees of a training: a bar, the losses, and how good the network is by now."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from recon_cli.cli.output import Output, make_console
from recon_cli.cli.progress import PASS_RESUME

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import Progress, TaskID

    from recon_cli.artifacts.training import Figures


class TrainingProgress:
    """Watches a training for the terminal; silent when there is none.

    :param sink: the command's output.
    :param how_on: how to go on with a run that was stopped.
    """

    def __init__(self, sink: Output, how_on: str = PASS_RESUME) -> None:
        self._sink = sink
        self._how_on = how_on
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._losses: Mapping[str, float | None] = {}
        self._rates: list[float] = []
        self._evaluations: list[tuple[int, Figures, bool]] = []
        self._epochs = ""

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def started(self, title: str, device: str, epochs: int | None, steps: int | None, done: int) -> None:
        """Begin to show the bar."""
        self._losses, self._rates, self._evaluations = {}, [], []
        if done:
            self._sink.note(f"{title}: going on after step {done}")
        if not self._sink.is_watched:
            return
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("training {task.fields[title]} on {task.fields[device]}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[epoch]}", markup=False),
            TimeRemainingColumn(),
        )
        self._epochs = f" of {epochs}" if epochs else ""
        self._task = self._progress.add_task("", total=steps, completed=done, title=title, device=device, epoch="")
        self._live = Live(self._progress, console=make_console(sys.stderr), refresh_per_second=4, transient=True)
        self._live.start()

    def advanced(self, step: int, epoch: int) -> None:
        """Move the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step, epoch=f"epoch {epoch + 1}{self._epochs}")

    def trained(self, losses: Mapping[str, float | None], rates: list[float]) -> None:
        """Show the losses."""
        self._losses, self._rates = losses, rates
        self._draw()

    def evaluated(self, epoch: int, figures: Figures, *, is_best: bool) -> None:
        """Show the figures of the last evaluation and of the best."""
        self._evaluations = [each for each in self._evaluations if each[2] and not is_best][-1:]
        self._evaluations.append((epoch, figures, is_best))
        self._draw()

    def finished(self) -> None:
        """Take the bar away."""
        self._stop()

    def noted(self, message: str) -> None:
        """Pass a note on."""
        self._pause_for(lambda: self._sink.note(message))

    def warned(self, message: str) -> None:
        """Pass a warning on."""
        self._pause_for(lambda: self._sink.warning(message))

    def suspended(self, folder: Path, step: int | None) -> None:
        """Say where a run that was asked to stop lies."""
        self._stop()
        when = "as it was last saved" if step is None else f"as it was after step {step}"
        self._sink.warning(f"the run is kept in {folder} {when}; {self._how_on} to go on from there")

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._picture())

    def _pause_for(self, speak: Callable[[], None]) -> None:
        if self._live is None:
            speak()
            return
        self._live.stop()
        speak()
        self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self) -> Group:
        from rich.console import Group

        from recon_cli.reporting.training import progress_table

        assert self._progress is not None
        return Group(progress_table(self._losses, self._rates, self._evaluations), self._progress)
