"""What was counted between each two tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from recon_cli.artifacts.scores import ScoredLayer, Scores

Value = TypeVar("Value")


@dataclass(frozen=True)
class TaskPairs:
    """What was counted between each two tasks i < j, in the order (0, 1), (0, 2), ...

    :ivar measured: the iterations in which the two were measured.
    :ivar conflicts: how often their cosine was strictly below the severity.
    :ivar cosines: their mean cosine; None where they were never measured.
    """

    measured: tuple[int, ...]
    conflicts: tuple[int, ...]
    cosines: tuple[float | None, ...]

    @property
    def rates(self) -> tuple[float | None, ...]:
        """How often each two conflict; None where they were never measured."""
        counts = zip(self.conflicts, self.measured, strict=True)
        return tuple(count / times if times else None for count, times in counts)


def task_pairs(scores: Scores, layer: ScoredLayer | None, severity: float) -> TaskPairs | None:
    """What was counted between each two tasks on a layer.

    :param layer: None for all shared layers as one vector.
    :param severity: S.
    :returns: None where it is not known: between more than two tasks it is counted at the grid of severities alone, and
        not by old versions.
    """
    if len(scores.tasks) == 2:
        if not scores.can_count(severity):
            return None
        return TaskPairs((scores.pairs(layer),), (scores.conflicts(layer, severity),), (scores.gds(layer),))
    between = scores.trunk_between if layer is None else layer.between
    if between is None or severity not in scores.severities:
        return None
    return TaskPairs(between.pairs, between.conflicts[scores.severities.index(severity)], between.cosines)


def matrix_of(values: Sequence[Value], tasks: int, diagonal: Value) -> tuple[tuple[Value, ...], ...]:
    """What is known of each two tasks, as a symmetric matrix.

    :param values: in the order (0, 1), (0, 2), ...
    """
    places = range(tasks)
    of = dict(zip(combinations(places, 2), values, strict=True))
    return tuple(tuple(diagonal if i == j else of[min(i, j), max(i, j)] for j in places) for i in places)
