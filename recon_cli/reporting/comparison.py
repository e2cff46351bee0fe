"""A comparison of rankings for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import RenderableType
from rich.table import Table

from recon_cli.artifacts.comparison import Comparison, Matrix
from recon_cli.reporting.tables import add_row, make_table, percent


def comparison_view(comparison: Comparison) -> Iterable[RenderableType]:
    """One table for each measure; rankings are numbered, their names stand above."""
    yield f"{len(comparison.rankings)} rankings of {comparison.layers} layers:"
    for number, name in enumerate(comparison.rankings, start=1):
        yield f"  {number}  {name}"
    yield ""
    yield "distance (Eq. 22): by how many places a layer differs, on average"
    yield _matrix(comparison.distance, "{:.3f}".format)
    yield ""
    yield "similarity: share of the pairs of layers in the same order"
    yield _matrix(comparison.similarity, "{:.3f}".format)
    yield ""
    yield f"overlap of the first {comparison.k} layers"
    yield _matrix(comparison.overlap, percent)


def _matrix(matrix: Matrix, show: Callable[[float], str]) -> Table:
    table = make_table("", *(f">{number}" for number in range(1, len(matrix) + 1)))
    for number, row in enumerate(matrix, start=1):
        add_row(table, [number, *(show(value) for value in row)])
    return table
