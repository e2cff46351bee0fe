"""What the tables have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from recon_cli.errors import printable
from recon_cli.sizes import BYTE_UNITS

_BAR_WIDTH = 20


@dataclass(frozen=True)
class Rows:
    """What a table holds, wherever it is shown.

    :ivar columns: their names, as `make_table` takes them.
    :ivar rows: each with one cell for every column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def make_table(*columns: str) -> Table:
    """An empty table. A column whose name begins with `>` is aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="right" if column != name else "left", no_wrap=column != name, overflow="fold")
    return table


def add_row(table: Table, cells: Sequence[object]) -> None:
    """Add a row, with every name in it made harmless to the terminal; what is styled already stays as it is."""
    table.add_row(*(cell if isinstance(cell, Text) else printable(str(cell)) for cell in cells))


def table_of(content: Rows) -> Table:
    """A table with its rows."""
    table = make_table(*content.columns)
    for row in content.rows:
        add_row(table, row)
    return table


def bar(share: float, width: int = _BAR_WIDTH) -> str:
    """A bar for a number from 0 to 1, which reads without colour as well."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return "#" * full + "." * (width - full)


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
