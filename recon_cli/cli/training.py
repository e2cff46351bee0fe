"""What somebody at a terminal sees of a training: a bar, the losses, and how good the network is by now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from recon_cli.cli.live import PASS_RESUME, LivePicture
from recon_cli.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Group
    from rich.progress import Progress, TaskID

    from recon_cli.artifacts.training import Figures


class TrainingProgress(LivePicture):
    """Watches a training for the terminal; silent when there is none.

    :param sink: the command's output.
    :param how_on: how to go on with a run that was stopped.
    """

    def __init__(self, sink: Output, how_on: str = PASS_RESUME) -> None:
        super().__init__(sink, how_on)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._losses: Mapping[str, float | None] = {}
        self._rates: list[float] = []
        self._evaluations: list[tuple[int, Figures, bool]] = []
        self._epochs = ""

    def started(self, title: str, device: str, epochs: int | None, steps: int | None, done: int) -> None:
        """Begin to show the bar."""
        self._losses, self._rates, self._evaluations = {}, [], []
        if done:
            self._sink.note(f"{title}: going on after step {done}")
        if not self._sink.is_watched:
            return
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
        self._show(self._progress)

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

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._picture())

    def _picture(self) -> Group:
        from rich.console import Group

        from recon_cli.reporting.training import progress_table

        assert self._progress is not None
        return Group(progress_table(self._losses, self._rates, self._evaluations), self._progress)
