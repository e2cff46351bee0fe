"""What somebody at a terminal sees of a search: a bar for every stage, and what the tasks chose in those before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recon_cli.cli.live import LivePicture
from recon_cli.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Group
    from rich.progress import Progress, TaskID

    from recon_cli.artifacts.search import SearchStage


class SearchProgress(LivePicture):
    """Watches a search for the terminal; silent when there is none."""

    def __init__(self, sink: Output) -> None:
        super().__init__(sink)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._modules: Sequence[str] = ()
        self._stages: list[SearchStage] = []

    def chained(self, modules: Sequence[str]) -> None:
        """Know what branch points lie before."""
        self._modules = modules

    def started(self, stage: int, steps: int, device: str) -> None:
        """Begin to show the bar of a stage."""
        if not self._sink.is_watched:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn(f"searching on {device}, stage {stage}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("", total=steps)
        self._show(self._picture())

    def advanced(self, step: int) -> None:
        """Move the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step)

    def learned(self, stage: SearchStage) -> None:
        """Take the bar away."""
        self._stages.append(stage)
        self._stop()

    def _picture(self) -> Group:
        from rich.console import Group

        from recon_cli.reporting.search import choices_rows
        from recon_cli.reporting.tables import table_of

        assert self._progress is not None
        # Searches that draw have one stage.
        tables = [table_of(choices_rows(stage, self._modules)) for stage in self._stages]
        return Group(*tables, self._progress)
