"""From scores to how their tasks get along."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.scores import ScoredLayer, Scores
from recon_cli.artifacts.tasks import Grouping, TaskGroup, TaskRelations
from recon_cli.errors import ReconError, did_you_mean, listed, number, quoted
from recon_cli.relations.chance import differ_beyond_chance
from recon_cli.relations.courses import courses_of, last_iterations
from recon_cli.relations.groups import mean_rate, suggest_groups
from recon_cli.relations.pairs import TaskPairs, matrix_of, task_pairs


def relate_tasks(scores: Scores, severity: float, layer: str | None = None) -> TaskRelations:
    """Find which tasks conflict, which get along, and how alike their gradients were over time.

    :param severity: S, in (-1, 0]; two tasks conflict where their cosine is strictly below it.
    :param layer: the name of a shared layer, or an alias; None for the gradients of all of them as one vector.
    :raises ReconError: if there is no such layer, or the scores do not tell which tasks conflict.
    """
    if not -1 < severity <= 0:
        raise ReconError(f"the severity {number(severity)} is not in (-1, 0]")
    of = None if layer is None else _layer(scores, layer)
    pairs, tasks = _known_pairs(scores, of, severity), len(scores.tasks)
    return TaskRelations(
        tasks=scores.tasks,
        layer=None if of is None else of.name,
        severity=severity + 0.0,
        scores_digest=digest_bytes(scores.to_bytes()),
        complete=scores.complete,
        iterations=scores.iterations,
        rates=matrix_of(pairs.rates, tasks, None),
        cosines=matrix_of(pairs.cosines, tasks, None),
        measured=matrix_of(pairs.measured, tasks, 0),
        grouping=_grouping(scores.tasks, pairs),
        windows=scores.windows,
        last_iterations=last_iterations(scores.windows),
        courses=courses_of(scores, of),
    )


def _layer(scores: Scores, name: str) -> ScoredLayer:
    known = {each: layer for layer in scores.layers for each in (layer.name, *layer.aliases)}
    if name not in known:
        shared = [layer.name for layer in scores.layers]
        raise ReconError(
            f"the tasks share no layer {quoted(name)}", did_you_mean(name, known) or f"they share {listed(shared)}"
        )
    return known[name]


def _known_pairs(scores: Scores, layer: ScoredLayer | None, severity: float) -> TaskPairs:
    pairs = task_pairs(scores, layer, severity)
    if pairs is not None:
        return pairs
    if len(scores.tasks) > 2 and (scores.trunk_between if layer is None else layer.between) is None:
        raise ReconError(
            "the scores do not tell which tasks conflict: an earlier version of Recon wrote them",
            "profile anew; `recon profile` counts it between each two tasks",
        )
    counted_at = listed([number(each) for each in scores.severities], limit=len(scores.severities))
    raise ReconError(
        f"the scores do not tell which tasks conflict at the severity {number(severity)}",
        f"between each two tasks it was counted at {counted_at}",
    )


def _grouping(tasks: Sequence[str], pairs: TaskPairs) -> Grouping | None:
    found = suggest_groups(pairs.rates, len(tasks))
    if found is None:
        return None
    group_of = {task: place for place, group in enumerate(found) for task in group}
    rates = zip(combinations(range(len(tasks)), 2), pairs.rates, strict=True)
    known = [(pair, rate) for pair, rate in rates if rate is not None]
    inside = [(group_of[one], rate) for (one, other), rate in known if group_of[one] == group_of[other]]
    across = [rate for (one, other), rate in known if group_of[one] != group_of[other]]
    return Grouping(
        groups=tuple(
            TaskGroup(
                tasks=tuple(tasks[task] for task in group),
                highest_rate=max((rate for of, rate in inside if of == place), default=None),
            )
            for place, group in enumerate(found)
        ),
        mean_rate=mean_rate(pairs.rates),
        within_rate=fmean(rate for _, rate in inside) if inside else None,
        across_rate=fmean(across) if across else None,
        beyond_chance=differ_beyond_chance(pairs.measured, pairs.conflicts),
    )
