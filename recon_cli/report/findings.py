"""What a report shows, as plain typed data; the page and the pictures only draw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError, lacking
from recon_cli.ranking.agreement import layer_distance
from recon_cli.ranking.rank import DEFAULT_SEVERITY, rank
from recon_cli.ranking.reading import NamedRanking
from recon_cli.report.changes import Changes, changes_of
from recon_cli.report.cosines import LAYER_BINS, TRUNK_BINS, Distribution, distributions_of
from recon_cli.report.costs import Costs, MadeSplit, costs_of, first_covering, made_splits
from recon_cli.report.courses import Courses, lines_of
from recon_cli.report.layers import Layer, layers_of, rate_of
from recon_cli.report.materials import Materials, NamedSplit
from recon_cli.report.outcomes import Outcomes, outcomes_of
from recon_cli.report.tasks import Tasks, tasks_of
from recon_cli.report.words import shown

COVERED = 0.8
"""The part of all conflicts that the report's split covers, where none was made."""


@dataclass(frozen=True)
class Rankings:
    """The ranking that a report is about, if there is one, and the others that were given."""

    own: Ranking | None
    others: Sequence[NamedRanking]


@dataclass(frozen=True)
class OtherRanking:
    """A further ranking.

    :ivar distance: by how many places a layer differs from the report's ranking on average (Recon, Eq. 22); None if the
        rankings hold different layers.
    """

    name: str
    distance: float | None


@dataclass(frozen=True)
class Stages:
    """The stages of the profile.

    :ivar iterations: how many steps were measured in each.
    :ivar trunk: the conflict rate of all shared layers as one vector in each, `whole` in all of them together.
    """

    iterations: tuple[int, ...]
    trunk: tuple[float | None, ...]
    whole: float | None


@dataclass(frozen=True)
class MeasuredRun:
    """A training run that was measured; `rate` is the conflict rate of all its shared layers as one vector."""

    name: str
    rate: float | None


@dataclass(frozen=True)
class Findings:
    """What a report shows; parts of which nothing is known are None or empty.

    :ivar task_names: in order; empty if no document names them.
    :ivar severity: S; conflicts are cosines strictly below it.
    :ivar stage: the stage that the layers are ranked by, counted from 1; None for the whole profile.
    :ivar layers: the shared layers in ranked order.
    :ivar runs: the training runs that were measured, the first of which is the baseline.
    :ivar trunk_bins: into how many bins the cosines of a distribution's trunk are counted, `layer_bins` its layers'.
    :ivar chosen: the K that the report begins with.
    """

    task_names: tuple[str, ...]
    severity: float
    stage: int | None
    layers: tuple[Layer, ...]
    other_rankings: tuple[OtherRanking, ...]
    runs: tuple[MeasuredRun, ...]
    stages: Stages | None
    distributions: tuple[Distribution, ...]
    trunk_bins: int
    layer_bins: int
    tasks: Tasks | None
    courses: Courses | None
    costs: Costs | None
    splits: tuple[MadeSplit, ...]
    chosen: int | None
    changes: Changes | None
    outcomes: Outcomes | None


def findings_of(materials: Materials, rankings: Rankings) -> Findings:
    """Work out what a report shows.

    :param rankings: as :func:`rankings_of` finds them.
    :raises ReconError: if the documents do not belong together.
    """
    profile, splits = materials.profile, materials.splits
    ranking, others = rankings.own, rankings.others
    used = DEFAULT_SEVERITY if ranking is None or ranking.severity is None else ranking.severity
    layers: tuple[Layer, ...] = ()
    if ranking:
        in_split = [layer.name for layer in splits[0].split.layers] if splits else []
        layers = layers_of(ranking, used, profile, materials.runs, others, in_split)
    costs = costs_of(ranking) if ranking else None
    made = made_splits(splits, ranking)
    return Findings(
        task_names=tuple(map(shown, _task_names(materials, ranking))),
        severity=used,
        stage=ranking.stage if ranking else None,
        layers=layers,
        other_rankings=tuple(_other(each, ranking) for each in others if ranking),
        runs=tuple(MeasuredRun(shown(run.name), rate_of(run.scores, None, used)) for run in materials.runs),
        stages=_stages(profile, used) if profile else None,
        distributions=distributions_of(profile, materials.runs, ranking.names if ranking else ()),
        trunk_bins=TRUNK_BINS,
        layer_bins=LAYER_BINS,
        tasks=tasks_of(profile, used, ranking.names if ranking else ()) if profile else None,
        courses=lines_of(profile) if profile else None,
        costs=costs,
        splits=made,
        chosen=_chosen(costs, splits) if costs else None,
        changes=changes_of(materials.runs, materials.compared_conflicts),
        outcomes=outcomes_of(materials.results, materials.compared_results),
    )


def rankings_of(materials: Materials, severity: float | None) -> Rankings:
    """The ranking that a report is about, and the others that were given.

    :param severity: S, to rank the scores anew; None to take the ranking that was given first, or else S = -0.1.
    :raises ReconError: if the ranking is not of the scores' layers, or there are no scores to rank.
    """
    profile, given = materials.profile, materials.rankings
    if severity is not None and profile is None:
        raise ReconError("--severity ranks scores, and none are given", "name a scores file, or leave --severity out")
    if severity is None and given:
        first, *others = given
        if profile:
            layers = [layer.name for layer in profile.layers]
            if difference := lacking("the scores", layers, first.name, first.ranking.names):
                raise ReconError(
                    f"the ranking and the scores are of different layers: {difference}",
                    "name a ranking of these scores, or none",
                )
        return Rankings(first.ranking, others)
    if profile is None or not profile.layers:
        return Rankings(None, given)
    return Rankings(rank(profile, DEFAULT_SEVERITY if severity is None else severity), given)


def _stages(scores: Scores, severity: float) -> Stages:
    places = range(1, len(scores.stage_iterations) + 1)
    return Stages(
        iterations=scores.stage_iterations,
        trunk=tuple(rate_of(scores, None, severity, place) for place in places),
        whole=rate_of(scores, None, severity),
    )


def _other(other: NamedRanking, ranking: Ranking) -> OtherRanking:
    same = set(other.ranking.names) == set(ranking.names)
    return OtherRanking(shown(other.name), layer_distance(ranking.names, other.ranking.names) if same else None)


def _chosen(costs: Costs, splits: Sequence[NamedSplit]) -> int:
    """The K of the first split, if it was made by one."""
    if splits and splits[0].split.selection.policy == "top-k":
        return min(len(splits[0].split.layers), len(costs.steps))
    return first_covering(costs, COVERED)


def _task_names(materials: Materials, ranking: Ranking | None) -> tuple[str, ...]:
    """The tasks, as the first document says that knows them."""
    documents = [
        materials.profile,
        ranking,
        *(each.split for each in materials.splits),
        materials.compared_results,
        materials.compared_conflicts,
        *(run.results for run in materials.results),
    ]
    return next((each.tasks for each in documents if each is not None and each.tasks is not None), ())
