"""What somebody at a terminal sees of a profile: a bar, and the layers that lead so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recon_cli.cli.live import PASS_RESUME, LivePicture
from recon_cli.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Group
    from rich.progress import Progress, TaskID

    from recon_cli.profiling.leaders import Leader

_SECONDS_BETWEEN_TABLES = 0.5


class ProfileProgress(LivePicture):
    """Watches a profile for the terminal; silent when there is none.

    :param sink: the command's output.
    :param how_on: how to go on with a run that was stopped.
    """

    def __init__(self, sink: Output, how_on: str = PASS_RESUME) -> None:
        super().__init__(sink, how_on)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._next_table = 0.0

    def started(self, steps: int, device: str, done: int) -> None:
        """Begin to show the bar."""
        if done:
            self._sink.note(f"going on after step {done} of {steps}")
        if not self._sink.is_watched:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn(f"profiling on {device}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("steps", total=steps, completed=done)
        self._show(self._progress)

    def advanced(self, step: int, leaders: Callable[[], list[Leader]]) -> None:
        """Move the bar, and now and then show the layers that lead."""
        if self._live is None or self._progress is None or self._task is None:
            return
        self._progress.update(self._task, completed=step)
        if time.monotonic() >= self._next_table:
            self._live.update(self._picture(leaders()))
            self._next_table = time.monotonic() + _SECONDS_BETWEEN_TABLES

    def restarted(self, times: int) -> None:
        """Say so the first time; a long run starts over at every epoch."""
        if times == 1:
            self._pause_for(
                lambda: self._sink.note("the data has fewer batches than there are steps; it is started over")
            )

    def kept(self, path: Path, iterations: int) -> None:
        """Say where an unfinished profile lies."""
        self._stop()
        self._sink.warning(f"the {iterations} iterations measured until then are kept in {path}")

    def _picture(self, leaders: list[Leader]) -> Group:
        from rich.console import Group

        from recon_cli.reporting.ranking import leaders_table

        assert self._progress is not None
        return Group(leaders_table(leaders), self._progress)
