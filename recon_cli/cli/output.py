"""The one place that writes to the terminal: data to standard output, all else to standard error.

Commands hand over a document and a way to show it; whether people or programs are reading is decided here.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from recon_cli.artifacts.document import STANDARD_STREAM, Document, standard_output
from recon_cli.errors import ReconError, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

View = Callable[[], Iterable["RenderableType"]]
"""Makes what people are shown; it is called only if they are."""

_LOG_WIDTH = 100_000


class Mode(Enum):
    """Who reads standard output."""

    TEXT = "people"
    JSON = "a program"
    QUIET = "nobody"


class Output:
    """The output of one command.

    :param mode: who reads standard output.
    :param taken: whether a document is written to standard output, which then carries nothing else.
    """

    def __init__(self, mode: Mode, *, taken: bool = False) -> None:
        self._mode = mode
        self._taken = taken

    @classmethod
    def choose(cls, *, json: bool, quiet: bool, to: Path | None = None) -> Output:
        """The output that the command's options ask for.

        :param to: the output file that the user named, if any.
        :raises ReconError: if they contradict each other.
        """
        if json and quiet:
            raise ReconError("--json and --quiet contradict each other", "pass one of them")
        mode = Mode.JSON if json else Mode.QUIET if quiet else Mode.TEXT
        return cls(mode, taken=to == STANDARD_STREAM)

    def result(self, document: Document | None, view: View) -> None:
        """Give the result of a command.

        :param document: the result, which `--json` prints; None where that is not asked for.
        :param view: how people are shown it.
        """
        if self._taken or self._mode is Mode.QUIET:
            return
        if self._mode is Mode.JSON:
            assert document is not None
            document.write(STANDARD_STREAM)
            return
        with standard_output() as stream:
            console = make_console(stream)
            # Rich ends the process when a reader leaves early, so what it draws is written here.
            with console.capture() as drawn:
                for item in view():
                    # What a terminal has no room for it wraps; numbers that are cut off would be wrong ones.
                    console.print(printable(item) if isinstance(item, str) else item, crop=False)
            # A table's last column is filled up with blanks, which would wrap in a narrower window.
            stream.write(re.sub(r" +$", "", drawn.get(), flags=re.MULTILINE))

    def note(self, message: str) -> None:
        """Say something worth knowing, on standard error."""
        if self._mode is not Mode.QUIET:
            say("note", message)

    def warning(self, message: str) -> None:
        """Say something that is probably not what was meant, on standard error."""
        say("warning", message)

    @property
    def is_watched(self) -> bool:
        """Whether somebody sits at a terminal and wants to see progress."""
        return self._mode is not Mode.QUIET and sys.stderr.isatty()


def say(kind: str, message: str) -> None:
    """Write one message to standard error."""
    lines = [printable(line) for line in message.split("\n")]
    # Where nobody can be told, the exit code still says it.
    with contextlib.suppress(OSError):
        print(f"{kind}: " + "\n".join(lines), file=sys.stderr, flush=True)


def make_console(stream: object) -> Console:
    """A console that shows names as they are: nothing in them is taken for markup or coloured as a number."""
    from rich.console import Console

    console = Console(file=stream, markup=False, highlight=False, emoji=False)  # type: ignore[arg-type]
    if not console.is_terminal:
        # A log has no width, and nothing in it should be cut.
        console.width = _LOG_WIDTH
    return console
