"""How hot layers are: the network as a strip of marks, and rows of a table with bars. Both read without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recon_cli.errors import printable
from recon_cli.reporting.tables import Rows, add_row, bar, make_table

_ASCII_MARKS = ".:-=+*#%@"
_BLOCK_MARKS = "▁▂▃▄▅▆▇█"
_MOST_MARKS = 60
_BAR_WIDTHS = (4, 20)


def relative(values: Sequence[float]) -> list[float]:
    """Values relative to the highest of them, from 0 to 1; those below 0 are 0."""
    highest = max((*values, 0.0))
    return [max(value, 0.0) / highest if highest else 0.0 for value in values]


@dataclass(frozen=True)
class HeatStrip:
    """Layers in the network's order, one mark each, in lines that fit the terminal; below each, its ends by name.

    :ivar title: what is shown of the layers.
    :ivar names: of the layers.
    :ivar shares: of the highest, from 0 to 1, for each layer.
    :ivar highest: the highest, as it is to be read.
    """

    title: str
    names: Sequence[str]
    shares: Sequence[float]
    highest: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # A log may be read with another encoding than it was written with.
        plain = options.ascii_only or not console.is_terminal or console.is_dumb_terminal
        marks = _ASCII_MARKS if plain else _BLOCK_MARKS
        yield Text(f"{self.title} of each layer, in the network's order:")
        yield Text(f"blank is 0 or below, then {marks} in equal steps up to {self.highest}")
        digits = len(str(len(self.names)))
        indent = digits + len(" |")
        room = min(options.max_width - indent - len("| ") - digits, _MOST_MARKS)
        # Lines of whole tens are easy to count in.
        size = max(1, room - room % 10 if room > 10 else room)
        for start in range(0, len(self.names), size):
            names, shares = self.names[start : start + size], self.shares[start : start + size]
            strip = [(_mark(share, marks), _style(share)) for share in shares]
            yield Text.assemble(f"{start + 1:>{digits}} |", *strip, f"| {start + len(names)}")
            yield Padding(Text(_ends(names), overflow="fold"), (0, 0, 0, indent))


@dataclass(frozen=True)
class BarredTable:
    """A table whose rows end with a bar each, as wide as the other columns leave room for.

    :ivar content: the table without bars.
    :ivar shares: how long the bar of each row is, from 0 to 1.
    """

    content: Rows
    shares: Sequence[float]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least, most = _BAR_WIDTHS
        taken = console.measure(self._table(0), options=options).maximum
        yield self._table(min(max(options.max_width - taken, least), most))

    def _table(self, width: int) -> Table:
        table = make_table(*self.content.columns, "", dense=True)
        table.columns[-1].no_wrap = True
        for row, share in zip(self.content.rows, self.shares, strict=True):
            add_row(table, [*row, Text(bar(share, width), _style(share))])
        return table


def _mark(share: float, marks: str) -> str:
    return marks[min(ceil(share * len(marks)), len(marks)) - 1] if share > 0 else " "


def _style(share: float) -> str:
    # These can be read on black as well as on white.
    return "red" if share > 2 / 3 else "magenta" if share > 1 / 3 else ""


def _ends(names: Sequence[str]) -> str:
    """The first and the last of the names, below the marks that are theirs if they are short enough."""
    first, last = printable(names[0]), printable(names[-1])
    if len(names) == 1:
        return first
    room = len(names) - cell_len(first) - cell_len(last)
    return f"{first}{' ' * room if room > 1 else ' to '}{last}"
