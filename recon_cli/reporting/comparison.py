"""A comparison of rankings for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

from recon_cli.artifacts.comparison import Comparison, OptionalMatrix
from recon_cli.errors import counted, listed, number
from recon_cli.ranking.reading import NamedRanking
from recon_cli.reporting.ranking import ranking_warnings
from recon_cli.reporting.tables import DENSE_GAP, Rows, add_row, decimal, make_table


def comparison_view(comparison: Comparison) -> Iterable[RenderableType]:
    """The measures of two rankings, or of more a triangle for each measure; rankings are numbered, with a legend."""
    size = len(comparison.rankings)
    yield f"{size} rankings of {counted(comparison.layers, 'layer')}:"
    for place, name in enumerate(comparison.rankings, start=1):
        yield f"  {place:>{len(str(size))}}  {name}"
    yield ""
    if size == 2:
        table = make_table("", ">", ">by chance")
        for measure in _measures(comparison, decimals=3):
            add_row(table, [measure.name, measure.show(measure.figures[1][0]), measure.show(measure.by_chance)])
        yield table
        yield ""
    else:
        for measure in _measures(comparison, decimals=2):
            yield f"{measure.name} ({measure.show(measure.by_chance)} by chance)"
            yield _Triangle([[measure.show(figure) for figure in row] for row in measure.figures])
            yield ""
    yield _least_overlap(comparison)


def comparison_rows(comparison: Comparison) -> Rows:
    """The measures of every two rankings."""
    optional = {"tau": comparison.tau, "rho": comparison.rho}
    measures: dict[str, OptionalMatrix] = {
        "distance (Eq. 22)": comparison.distance,
        "similarity": comparison.similarity,
        # Documents of Recon before they were there hold none of these.
        **{name: figures for name, figures in optional.items() if figures},
        f"overlap of the first {comparison.k}": comparison.overlap,
    }
    rows = []
    for two, name in enumerate(comparison.rankings):
        for one in range(two):
            figures = [decimal(matrix[two][one], 3, "-") for matrix in measures.values()]
            rows.append([comparison.rankings[one], name, *figures])
    return Rows(["", "", *(f">{name}" for name in measures)], rows)


def comparison_warnings(rankings: Sequence[NamedRanking]) -> Iterable[str]:
    """What makes rankings those that are probably not wanted, each once."""
    return dict.fromkeys(warning for each in rankings for warning in ranking_warnings(each.ranking))


def comparison_remarks(rankings: Sequence[NamedRanking], comparison: Comparison) -> Iterable[str]:
    """What is worth saying about a comparison besides."""
    if comparison.left_out:
        yield f"left out: {counted(len(comparison.left_out), 'layer')} that not all rankings hold"
    severities = {each.ranking.severity for each in rankings if each.ranking.severity is not None}
    if len(severities) > 1:
        yield f"the rankings are by different severities: {', '.join(map(number, sorted(severities)))}"
    if early := [each.name for each in rankings if each.ranking.source.complete is False]:
        yield f"{listed(early)}: the profile ended early"
    left_out, k = set(comparison.left_out), comparison.k
    undecided = []
    for each in rankings:
        scores = [layer.score for layer in each.ranking.layers if layer.name not in left_out]
        if scores[k - 1 : k] == scores[k : k + 1]:
            undecided.append(each.name)
    if undecided:
        where = f"places {k} and {k + 1} of {listed(undecided)}"
        yield f"{where} have equal scores, so which of the layers there is in the first {k} is arbitrary"


@dataclass(frozen=True)
class _Measure:
    """A measure of every two rankings.

    :ivar by_chance: what it comes to on average for random orders.
    """

    name: str
    figures: OptionalMatrix
    by_chance: float
    show: Callable[[float | None], str]


def _measures(comparison: Comparison, *, decimals: int) -> Iterable[_Measure]:
    chance, k = comparison.chance, comparison.k
    assert chance is not None

    def figure(value: float | None) -> str:
        return decimal(value, decimals, "-")

    def count(share: float | None) -> str:
        return "-" if share is None else number(round(share * k, 1))

    yield _Measure("distance (Eq. 22): places apart, on average", comparison.distance, chance.distance, figure)
    yield _Measure("similarity: share of pairs in the same order", comparison.similarity, 0.5, figure)
    yield _Measure("Kendall's tau-b of the scores", comparison.tau, 0.0, figure)
    yield _Measure("Spearman's rho of the scores", comparison.rho, 0.0, figure)
    yield _Measure(f"layers that are in both first {k}", comparison.overlap, chance.overlap, count)


def _least_overlap(comparison: Comparison) -> str:
    """How probable the smallest of the overlaps is by chance."""
    places = range(len(comparison.rankings))
    share, i, j = min((comparison.overlap[i][j], i, j) for i in places for j in places[:i])
    count = round(share * comparison.k)
    least = "" if len(places) == 2 else f"least: {count}, of {j + 1} and {i + 1}; "
    return f"{least}{count} or more by chance: probability {comparison.overlap_probability[i][j]:.2g}"


@dataclass(frozen=True)
class _Triangle:
    """A matrix below its diagonal, in one table, or several below each other where it is too wide for the terminal.

    :ivar cells: of the whole matrix.
    """

    cells: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        size = len(self.cells)
        width = DENSE_GAP + max(cell_len(cell) for row in self.cells for cell in (*row, str(size)))
        fit = max(1, (options.max_width - len(str(size))) // width)
        for first in range(0, size - 1, fit):
            if first:
                yield ""
            columns = range(first, min(first + fit, size - 1))
            table = make_table("", *(f">{column + 1}" for column in columns), dense=True)
            for row in range(first + 1, size):
                add_row(table, [row + 1, *(self.cells[row][column] if column < row else "" for column in columns)])
            yield table
