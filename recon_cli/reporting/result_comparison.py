"""A comparison of ways of training, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

from recon_cli.artifacts.result_comparison import ComparedCriterion, Improvement, ResultComparison
from recon_cli.artifacts.training import Statistic
from recon_cli.errors import counted, printable, quoted
from recon_cli.reporting.tables import DENSE_GAP, Rows, add_row, make_table
from recon_cli.reporting.training import statistic_text

_NAME_WIDTH = 24
"""A longer name is folded where the table would else be too wide."""


def result_comparison_view(comparison: ResultComparison) -> Iterable[RenderableType]:
    """What each run came to, what it costs, and by how much it improves on others; what is counted of the criteria."""
    runs, first = comparison.runs, comparison.runs[0].name
    seeds = {len(run.seeds) for run in runs}
    trained = f", {counted(seeds.pop(), 'seed')} each" if len(seeds) == 1 else ""
    when = "after the last step" if comparison.which == "last" else "at each seed's best evaluation"
    yield f"{counted(len(runs), 'run')} of {', '.join(comparison.tasks)}{trained}, {when}"
    yield ""
    yield _Columns([run.name for run in runs], list(_groups(comparison)))
    yield ""
    yield "* best of the runs; ↑ higher is better, ↓ lower is better"
    improvement = "mean relative improvement over"
    if comparison.single_task is not None:
        yield f"delta m: {improvement} single-task networks ({runs[comparison.single_task].name}); above 0 is better"
    if comparison.single_task != 0:
        yield f"over 1st: {improvement} {first}; above 0 is better"
    yield f"ops, time: a forward pass and the training, relative to {first}; #P: size of the parameters"


def result_comparison_rows(comparison: ResultComparison) -> Rows:
    """What each run came to, what it costs, and by how much it improves on others."""
    columns = [column for group in _groups(comparison) for column in group]
    rows = [[run.name, *(column.cells[row] for column in columns)] for row, run in enumerate(comparison.runs)]
    return Rows(["", *(f">{column.head}" for column in columns)], rows)


def result_comparison_remarks(comparison: ResultComparison) -> Iterable[str]:
    """What is worth saying about a comparison besides."""
    first = comparison.runs[0]
    if first.improvement.note:
        yield f"no improvement over {quoted(first.name)} is known: {first.improvement.note}"
    for run in comparison.runs:
        if run.improvement.note and not first.improvement.note:
            yield f"the improvement of {quoted(run.name)} is not known: {run.improvement.note}"
        if run.single_task and comparison.single_task is None:
            yield f"every task has a network of its own in {quoted(run.name)}; --single-task gives delta m over them"
    if comparison.single_task:
        baseline = comparison.runs[comparison.single_task]
        if baseline.delta_m is not None and baseline.delta_m.note:
            yield f"no delta m over {quoted(baseline.name)} is known: {baseline.delta_m.note}"
    if comparison.which == "best" and len({run.best_by for run in comparison.runs}) > 1:
        chosen = ", ".join(f"{quoted(run.name)} by {quoted(run.best_by)}" for run in comparison.runs)
        yield f"the best evaluations were chosen by different figures: {chosen}"


@dataclass(frozen=True)
class _Column:
    """A column of numbers.

    :ivar head: its name, of one line or more.
    :ivar cells: one for each run.
    """

    head: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        """How wide it is, with the gap before it."""
        return DENSE_GAP + max(cell_len(text) for text in (*self.head.split("\n"), *self.cells))


@dataclass(frozen=True)
class _Columns:
    """One table of the runs, or several below each other where its columns are too many for the terminal."""

    names: Sequence[str]
    groups: Sequence[Sequence[_Column]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for place, columns in enumerate(self._tables(options.max_width)):
            if place:
                yield ""
            table = make_table("", *(f">{column.head}" for column in columns), dense=True)
            for row, name in enumerate(self.names):
                add_row(table, [name, *(column.cells[row] for column in columns)])
            yield table

    def _tables(self, width: int) -> list[list[_Column]]:
        """The columns of each table; a group stays together if it fits."""
        names = min(_NAME_WIDTH, max(cell_len(printable(name)) for name in self.names))
        tables: list[list[_Column]] = []
        left = 0
        for group in self.groups:
            if sum(column.width for column in group) > left:
                left = 0
            for column in group:
                if column.width > left:
                    tables.append([])
                    left = width - names
                tables[-1].append(column)
                left -= column.width
        return tables


def _groups(comparison: ResultComparison) -> Iterable[list[_Column]]:
    """The columns of each task, then those that are of the whole run."""
    runs = comparison.runs
    for task in comparison.tasks:
        yield [
            _figures(comparison, criterion)
            for criterion in comparison.criteria
            if criterion.task == task and criterion.counted
        ]
    delta_m = [run.delta_m for run in runs if run.delta_m is not None]
    seeds = [len(run.seeds) for run in runs]
    yield [
        *([_improvements("delta m, %", delta_m)] if delta_m else []),
        # Where the first is the single-task networks, the two are the same.
        *([_improvements("over 1st, %", [run.improvement for run in runs])] if comparison.single_task != 0 else []),
        _Column("#P\nMB", [f"{run.bytes / 2**20:.2f}" for run in runs]),
        _Column("ops", [_ratio(run.operations_ratio) for run in runs]),
        _Column("time", [_ratio(run.seconds_ratio) for run in runs]),
        *([_Column("seeds", [str(count) for count in seeds])] if len(set(seeds)) > 1 else []),
    ]


def _figures(comparison: ResultComparison, criterion: ComparedCriterion) -> _Column:
    figures = [run.figures[criterion.task][criterion.name] for run in comparison.runs]
    arrow = "↑" if criterion.better == "higher" else "↓"
    texts = [statistic_text(figure) for figure in figures]
    head = f"{printable(criterion.task)}\n{printable(criterion.name)} {arrow}"
    return _Column(head, _marked(texts, figures, highest=criterion.better == "higher"))


def _improvements(title: str, improvements: Sequence[Improvement]) -> _Column:
    totals = [improvement.total for improvement in improvements]
    return _Column(f"{title}\n↑", _marked([_percent_text(total) for total in totals], totals, highest=True))


def _marked(texts: Sequence[str], figures: Sequence[Statistic | None], *, highest: bool) -> list[str]:
    """The texts, of which those of the best figure have a mark; without one, they keep the place for it."""
    means = [figure.mean for figure in figures if figure is not None]
    best = (max if highest else min)(means) if means else None
    return [
        f"{text}{'*' if figure is not None and figure.mean == best else ' '}"
        for text, figure in zip(texts, figures, strict=True)
    ]


def _percent_text(total: Statistic | None) -> str:
    if total is None:
        return "-"
    # Adding 0 turns a rounded -0.0 into 0.0.
    mean = f"{round(total.mean, 2) + 0.0:+.2f}"
    return mean if total.deviation is None else f"{mean} ± {total.deviation:.2f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
