"""What somebody at a terminal sees while a checkpoint is written."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from recon_cli.branching.split import SplitResult
from recon_cli.cli.output import Output, make_console
from recon_cli.reporting.split import announcements

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LONG = 1 << 28
"""What is smaller is written before a bar could be seen."""


class WritingProgress:
    """Says how much is written, and shows how far it is if that takes a while and somebody watches.

    :param sink: the command's output.
    """

    def __init__(self, sink: Output) -> None:
        self._sink = sink
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> WritingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def announced(self, result: SplitResult) -> None:
        """Say what a split is going to do and write, and begin to show the bar."""
        for message in announcements(result):
            self._sink.note(message)
        planned = result.output
        if not self._sink.is_watched or planned.bytes < _LONG:
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=make_console(sys.stderr), transient=True)
        self._task = self._progress.add_task("writing", total=planned.bytes)
        self._progress.start()

    def advanced(self, written: int) -> None:
        """Move the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, written)
