"""The tasks of a report: how often each two of them conflict, and how large their gradients are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from recon_cli.artifacts.scores import ScoredLayer, Scores
from recon_cli.report.layers import rate_of
from recon_cli.report.words import shown


@dataclass(frozen=True)
class TaskMatrix:
    """How often each two tasks conflict.

    :ivar tasks: their names.
    :ivar rates: for each two of them, the share of the measured iterations in which their cosine was below S; None
        where that is not known, and on the diagonal.
    """

    tasks: tuple[str, ...]
    rates: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Task:
    """A task, and the gradient of its loss.

    :ivar iterations: the measured iterations in which it had a loss.
    :ivar norm: the mean norm of its gradient of all shared layers.
    """

    name: str
    iterations: int
    norm: float | None


@dataclass(frozen=True)
class Tasks:
    """What is known of the tasks.

    :ivar matrix: None where the scores hold no counts for each two tasks.
    """

    tasks: tuple[Task, ...]
    matrix: TaskMatrix | None


def tasks_of(scores: Scores, severity: float) -> Tasks:
    """The tasks of a profile."""
    parts = zip(scores.tasks, scores.task_iterations, scores.norms(None), strict=True)
    return Tasks(
        tasks=tuple(Task(shown(name), iterations, norm) for name, iterations, norm in parts),
        matrix=task_matrix(scores, None, severity),
    )


def task_matrix(scores: Scores, layer: ScoredLayer | None, severity: float) -> TaskMatrix | None:
    """How often each two tasks conflict on a layer.

    :param layer: None for all shared layers as one.
    :returns: None where it is not known: between more than two tasks it is counted at the grid of severities alone, and
        not by old versions.
    """
    between = scores.trunk_between if layer is None else layer.between
    pairs = list(combinations(range(len(scores.tasks)), 2))
    if len(pairs) == 1:
        rates = [rate_of(scores, layer, severity)]
    elif between is not None and severity in scores.severities:
        counts = between.conflicts[scores.severities.index(severity)]
        rates = [count / times if times else None for count, times in zip(counts, between.pairs, strict=True)]
    else:
        return None
    of = dict(zip(pairs, rates, strict=True))
    places = range(len(scores.tasks))
    matrix = tuple(tuple(None if i == j else of[min(i, j), max(i, j)] for j in places) for i in places)
    return TaskMatrix(tuple(map(shown, scores.tasks)), matrix)
