"""What a running command shows at a terminal, drawn anew in its place, with messages above it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from recon_cli.cli.output import Output, make_console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from typing_extensions import Self


PASS_RESUME = "pass --resume"


class LivePicture:
    """A picture at the terminal while a block runs; none where nobody watches.

    :param sink: the command's output.
    :param how_on: how to go on with a run that was stopped.
    """

    def __init__(self, sink: Output, how_on: str = PASS_RESUME) -> None:
        self._sink = sink
        self._how_on = how_on
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def _show(self, picture: RenderableType) -> None:
        """Begin to draw."""
        from rich.live import Live

        self._live = Live(picture, console=make_console(sys.stderr), refresh_per_second=4, transient=True)
        self._live.start()

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
