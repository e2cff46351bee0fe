"""What the tables have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

from recon_cli.errors import printable
from recon_cli.sizes import BYTE_UNITS

DENSE_GAP = 2
"""So many blanks are between two columns of a dense table."""

_BAR_WIDTH = 20
_LEAST_WIDTH = 12
"""Names are folded to fit a terminal, but to no less than so many of its columns."""


@dataclass(frozen=True)
class Rows:
    """What a table holds, wherever it is shown.

    :ivar columns: their names, as `make_table` takes them.
    :ivar rows: each with one cell for every column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class WholeTable(Table):
    """A table that is wider than a terminal which has no room for its numbers: no digit is cut off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The box has a blank between two columns besides.
        gap = self.padding[1] + self.padding[3] + 1
        least = sum((column.min_width or 0) + gap for column in self.columns)
        yield from super().__rich_console__(console, options.update(max_width=max(options.max_width, least)))


def make_table(*columns: str, dense: bool = False) -> Table:
    """An empty table. A column whose name begins with `>` is aligned to the right, and never folded.

    :param dense: whether there is little between two columns, `DENSE_GAP`.
    """
    padding = (0, 0, 0, DENSE_GAP - 1) if dense else (0, 1)
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=padding)
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="right" if column != name else "left", no_wrap=column != name, overflow="fold")
        _make_room(table.columns[-1], name)
    return table


def add_row(table: Table, cells: Sequence[object]) -> None:
    """Add a row, with every name in it made harmless to the terminal; what is styled already stays as it is.

    :param cells: one for every column, or for the first ones.
    """
    shown = [cell if isinstance(cell, Text) else printable(str(cell)) for cell in cells]
    table.add_row(*shown)
    for column, cell in zip(table.columns, shown, strict=False):
        _make_room(column, str(cell))


def _make_room(column: Column, text: str) -> None:
    width = max(map(cell_len, text.split("\n")))
    column.min_width = max(column.min_width or 0, width if column.no_wrap else min(width, _LEAST_WIDTH))


def table_of(content: Rows, *, dense: bool = False) -> Table:
    """A table with its rows.

    :param dense: as :func:`make_table` takes it.
    """
    table = make_table(*content.columns, dense=dense)
    for row in content.rows:
        add_row(table, row)
    return table


def bar(share: float, width: int = _BAR_WIDTH) -> str:
    """A bar for a number from 0 to 1, which reads without colour as well."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return "#" * full + "." * (width - full)


def decimal(value: float | None, digits: int, unknown: str = "") -> str:
    """A number with so many digits behind the point."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return unknown if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def megabytes(size: int) -> str:
    """A size in MB of 2^20 bytes, as the paper gives it."""
    return f"{size / 2**20:.2f} MB"


def readable_bytes(size: int) -> str:
    """A size in the largest unit that it has one of, such as `12.50 KB`; units are of 1024."""
    unit = next((unit for unit in ("GB", "MB", "KB") if size >= BYTE_UNITS[unit.lower()]), None)
    return f"{size} B" if unit is None else f"{size / BYTE_UNITS[unit.lower()]:.2f} {unit}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.2f}%"


def percent_interval(shares: tuple[float, float]) -> str:
    """An interval of shares in percent."""
    return f"{100 * shares[0]:.1f} to {100 * shares[1]:.1f}%"
