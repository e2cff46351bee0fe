"""A comparison of the conflicts in several runs, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from rich.console import RenderableType

from recon_cli.artifacts.conflict_comparison import ComparedRun, ConflictComparison
from recon_cli.errors import counted, number, quoted
from recon_cli.reporting.tables import Rows, add_row, decimal, make_table, percent, percent_interval, table_of


def conflict_comparison_view(comparison: ConflictComparison) -> Iterable[RenderableType]:
    """How each run's cosines are distributed, and by how much conflicts were reduced; runs are numbered."""
    yield f"{len(comparison.runs)} runs of {', '.join(comparison.tasks)}, the first of which is the baseline:"
    for place, run in enumerate(comparison.runs, start=1):
        yield f"  {place}  {run.name}"
    yield ""
    of = "all shared layers as one vector" if comparison.layer is None else comparison.layer
    where = "the whole profile" if comparison.stage is None else f"stage {comparison.stage}"
    yield f"share of the cosines of the tasks' gradients of {of} in each interval, in {where}"
    table = make_table("", *(f">{name}" for name in _intervals(comparison.edges)))
    for place, run in enumerate(comparison.runs, start=1):
        add_row(table, [place, *(percent(mass.share) for mass in run.masses)])
    yield table
    yield ""
    bound = number(comparison.bound)
    yield f"reduction of the cosines below {bound} against the baseline, and the mean cosine (GDS)"
    yield table_of(reduction_rows(comparison, [str(place + 1) for place in range(len(comparison.runs))]))


def reduction_rows(comparison: ConflictComparison, names: Sequence[str]) -> Rows:
    """How much of each run lies below the bound, and by how much that is reduced.

    :param names: what the runs are called.
    """
    rows = []
    for name, run in zip(names, comparison.runs, strict=True):
        below, confidence = percent(run.below.share), percent_interval(run.below.confidence)
        rows.append([name, f"{run.pairs:,}", below, confidence, *_reduction(run), decimal(run.gds, 3)])
    bound = f">cos < {number(comparison.bound)}"
    return Rows(["", ">pairs", bound, ">95% interval", ">reduction", ">95% interval", ">GDS"], rows)


def conflict_comparison_remarks(comparison: ConflictComparison) -> Iterable[str]:
    """What is worth saying about a comparison besides."""
    for run in comparison.runs:
        if not run.complete:
            yield f"{quoted(run.name)} ended early, after {counted(run.iterations, 'measured iteration')}"
        if run.non_finite:
            left_out = counted(run.non_finite, "pair")
            yield f"in {quoted(run.name)}, {left_out} of gradients held NaN or an infinity and are not counted"
    first = comparison.runs[0]
    if not first.below.count:
        yield f"{quoted(first.name)} has no cosine below {number(comparison.bound)}, so there is nothing to reduce"


def _intervals(edges: Sequence[float]) -> list[str]:
    """The intervals' names from the highest to the lowest; of two lines, so that many stand beside each other."""
    names = [number(edge) for edge in edges]
    closed = [f"[{names[0]},\n1]"]
    return [*closed, *(f"[{lower},\n{upper})" for upper, lower in pairwise(names)), f"[-1,\n{names[-1]})"]


def _reduction(run: ComparedRun) -> tuple[str, str]:
    if run.reduction_percent is None or run.reduction_confidence is None:
        return "", ""
    least, most = run.reduction_confidence
    return f"{decimal(run.reduction_percent, 2)}%", f"{least:.1f} to {most:.1f}%"
