"""The tasks of a report: how often each two of them conflict, which get along, and how large their gradients are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from recon_cli.artifacts.scores import ScoredLayer, Scores
from recon_cli.relations.chance import differ_beyond_chance
from recon_cli.relations.groups import mean_rate, suggest_groups
from recon_cli.relations.pairs import TaskPairs, matrix_of, task_pairs
from recon_cli.report.words import shown

_MOST_RATES = 40_000
"""The page holds the rates of so many pairs of tasks on all layers together; more would make it large."""


@dataclass(frozen=True)
class Groups:
    """Suggested groups of tasks.

    :ivar members: the places of their tasks.
    :ivar limit: the mean rate, above which no two tasks of a group conflict.
    :ivar beyond_chance: whether the tasks differ by more than chance explains.
    """

    members: tuple[tuple[int, ...], ...]
    limit: float
    beyond_chance: bool


@dataclass(frozen=True)
class TaskMatrix:
    """How often each two tasks conflict.

    :ivar tasks: their names.
    :ivar rates: for each two of them, the share of the measured iterations in which their cosine was below S; None
        where that is not known, and on the diagonal.
    :ivar groups: None where there is nothing to group.
    """

    tasks: tuple[str, ...]
    rates: tuple[tuple[float | None, ...], ...]
    groups: Groups | None


@dataclass(frozen=True)
class LayerRates:
    """How often each two tasks conflict on a layer.

    :ivar per_mille: of each two, in the order (0, 1), (0, 2), ...; None where they were not measured.
    :ivar groups: as in a `TaskMatrix`.
    """

    per_mille: tuple[int | None, ...]
    groups: Groups | None


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

    :ivar matrix: of all shared layers as one vector; None where the scores hold no counts for each two tasks.
    :ivar layers: of the report's first layers, as many as a page can hold; None where they are not known. Empty for two
        tasks, of which the rates of the layers tell all.
    """

    tasks: tuple[Task, ...]
    matrix: TaskMatrix | None
    layers: tuple[LayerRates | None, ...]


def tasks_of(scores: Scores, severity: float, layers: Sequence[str]) -> Tasks:
    """The tasks of a profile.

    :param layers: the names of the report's layers, in its order.
    """
    parts = zip(scores.tasks, scores.task_iterations, scores.norms(None), strict=True)
    known = {layer.name: layer for layer in scores.layers}
    number = len(scores.tasks)
    first = layers[: _MOST_RATES // comb(number, 2)] if number > 2 else ()
    return Tasks(
        tasks=tuple(Task(shown(name), iterations, norm) for name, iterations, norm in parts),
        matrix=task_matrix(scores, None, severity),
        layers=tuple(_layer_rates(scores, known[name], severity) for name in first),
    )


def task_matrix(scores: Scores, layer: ScoredLayer | None, severity: float) -> TaskMatrix | None:
    """How often each two tasks conflict on a layer.

    :param layer: None for all shared layers as one.
    :returns: None where :func:`recon_cli.relations.pairs.task_pairs` knows nothing.
    """
    pairs, number = task_pairs(scores, layer, severity), len(scores.tasks)
    if pairs is None:
        return None
    return TaskMatrix(tuple(map(shown, scores.tasks)), matrix_of(pairs.rates, number, None), _groups(pairs, number))


def _layer_rates(scores: Scores, layer: ScoredLayer, severity: float) -> LayerRates | None:
    pairs = task_pairs(scores, layer, severity)
    if pairs is None:
        return None
    per_mille = tuple(None if rate is None else round(1000 * rate) for rate in pairs.rates)
    return LayerRates(per_mille, _groups(pairs, len(scores.tasks)))


def _groups(pairs: TaskPairs, tasks: int) -> Groups | None:
    found = suggest_groups(pairs.rates, tasks)
    if found is None:
        return None
    return Groups(found, mean_rate(pairs.rates), differ_beyond_chance(pairs.measured, pairs.conflicts))
