"""What ways of training came to: every task's figures, size and cost, and by how much each is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recon_cli.artifacts.result_comparison import ComparedResults, Improvement, ResultComparison
from recon_cli.artifacts.training import Criterion, Results, Statistic, Statistics
from recon_cli.report.words import shown
from recon_cli.results.compare import compare_results
from recon_cli.results.runs import Run


@dataclass(frozen=True)
class Figure:
    """A figure over the seeds; `deviation` is that of a sample, None for one seed."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Named:
    """A criterion.

    :ivar better: `higher` or `lower`.
    """

    task: str
    name: str
    better: str


@dataclass(frozen=True)
class Outcome:
    """A way of training.

    :ivar figures: one for each criterion; None where a seed has none.
    :ivar bytes: size of all parameters.
    :ivar operations: of a forward pass, relative to those of the first way.
    :ivar seconds: training time, relative to that of the first way.
    :ivar improvement: over the first way, in percent; above 0 is better.
    :ivar delta_m: over the single-task networks, likewise.
    """

    name: str
    seeds: int
    figures: tuple[Figure | None, ...]
    bytes: int
    operations: float | None
    seconds: float | None
    improvement: Figure | None
    delta_m: Figure | None


@dataclass(frozen=True)
class Outcomes:
    """Several ways of training.

    :ivar which: whether the figures are those after the last step, or at each seed's best evaluation.
    :ivar has_delta_m: whether single-task networks are among them.
    """

    which: str
    criteria: tuple[Named, ...]
    has_delta_m: bool
    runs: tuple[Outcome, ...]


def outcomes_of(runs: Sequence[Run], given: ResultComparison | None) -> Outcomes | None:
    """A comparison that is given, or else the results compared; of a single one, its own figures.

    :raises ReconError: if the results cannot be compared.
    """
    if given is None and len(runs) == 1:
        return _of_one(runs[0].name, runs[0].results) if runs[0].results.last else None
    if given is None and runs:
        given = compare_results(runs, single_task=next((run for run in runs if run.results.single_task), None))
    if given is None:
        return None
    rows = tuple(_outcome(run, given.criteria, place > 0) for place, run in enumerate(given.runs))
    return Outcomes(given.which, _named(given.criteria), given.single_task is not None, rows)


def _of_one(name: str, results: Results) -> Outcomes:
    row = Outcome(
        name=shown(name),
        seeds=len(results.seeds),
        figures=_figures(results.last, results.criteria),
        bytes=results.bytes,
        operations=None,
        seconds=None,
        improvement=None,
        delta_m=None,
    )
    return Outcomes("last", _named(results.criteria), has_delta_m=False, runs=(row,))


def _outcome(run: ComparedResults, criteria: Sequence[Criterion], is_compared: bool) -> Outcome:
    return Outcome(
        name=shown(run.name),
        seeds=len(run.seeds),
        figures=_figures(run.figures, criteria),
        bytes=run.bytes,
        operations=run.operations_ratio,
        seconds=run.seconds_ratio,
        improvement=_total(run.improvement) if is_compared else None,
        delta_m=_total(run.delta_m),
    )


def _named(criteria: Sequence[Criterion]) -> tuple[Named, ...]:
    return tuple(Named(shown(each.task), shown(each.name), each.better) for each in criteria)


def _figures(figures: Statistics, criteria: Sequence[Criterion]) -> tuple[Figure | None, ...]:
    return tuple(_figure(figures[criterion.task][criterion.name]) for criterion in criteria)


def _total(improvement: Improvement | None) -> Figure | None:
    return None if improvement is None else _figure(improvement.total)


def _figure(statistic: Statistic | None) -> Figure | None:
    return None if statistic is None else Figure(statistic.mean, statistic.deviation)
