"""The relative improvement of one way of training over another: delta m (Recon, section 5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Literal

from recon_cli.artifacts.result_comparison import Improvement
from recon_cli.artifacts.training import Criterion, Statistic, Statistics
from recon_cli.config.schema import LOSS
from recon_cli.errors import ReconError, quoted

_HUGE = 1e300
"""What is larger could overflow in a mean."""


def counted_criteria(criteria: Sequence[Criterion]) -> list[Criterion]:
    """The criteria that an improvement counts: the metrics of each task, and the loss of one that has none."""
    measured = {criterion.task for criterion in criteria if criterion.name != LOSS}
    return [criterion for criterion in criteria if criterion.name != LOSS or criterion.task not in measured]


def relative_improvement(value: float, baseline: float, better: Literal["higher", "lower"]) -> float:
    """(-1)^l (M - S) / S, l = 1 where lower is better: by which part of S a figure M is better; below 0 it is worse.

    :param value: M.
    :param baseline: S, above 0.
    """
    return (value - baseline if better == "higher" else baseline - value) / baseline


def improvement_over(baseline: Statistics, run: Statistics, criteria: Iterable[Criterion]) -> Improvement:
    """By how much a run is better than a baseline, in percent: the mean over tasks of the mean over their criteria.

    Every seed of the run is compared with the baseline's mean over seeds, so the deviation is that of the run alone.

    :param criteria: those that are counted.
    """
    changes: dict[str, list[list[float]]] = {}
    problems: dict[str, str] = {}
    for criterion in criteria:
        of_task = changes.setdefault(criterion.task, [])
        try:
            of_task.append(_changes(baseline, run, criterion))
        except ReconError as problem:
            problems.setdefault(criterion.task, problem.message)
    known = {task: _means(each) for task, each in changes.items() if task not in problems}
    return Improvement(
        total=None if problems else _percent(_means(list(known.values()))),
        tasks={task: _percent(known[task]) if task in known else None for task in changes},
        note="; ".join(problems.values()) or None,
    )


def _changes(baseline: Statistics, run: Statistics, criterion: Criterion) -> list[float]:
    """The relative improvement of the mean of a run's figure, then that of each of its values.

    :raises ReconError: if there is none.
    """
    name = quoted(f"{criterion.task}/{criterion.name}")
    mine, other = run[criterion.task][criterion.name], baseline[criterion.task][criterion.name]
    if mine is None or other is None:
        raise ReconError(f"{'the baseline' if other is None else 'the run'} has no figure for {name}")
    if other.mean <= 0:
        raise ReconError(f"{name} is {other.mean:g} in the baseline, and nothing is relative to what is not above 0")
    found = [relative_improvement(value, other.mean, criterion.better) for value in (mine.mean, *mine.values)]
    if not all(abs(change) < _HUGE for change in found):
        raise ReconError(f"{name} is too small in the baseline to be compared with")
    return found


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(column) for column in zip(*rows, strict=True)]


def _percent(changes: Sequence[float]) -> Statistic:
    """:param changes: that of the mean, then that of each seed."""
    mean, *values = (100 * change for change in changes)
    return Statistic(mean=mean, deviation=stdev(values) if len(values) > 1 else None, values=tuple(values))
