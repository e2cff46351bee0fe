"""The shared layers of a report, in ranked order, with all that is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.artifacts.scores import ScoredLayer, Scores
from recon_cli.conflicts.runs import Run
from recon_cli.ranking.reading import NamedRanking
from recon_cli.report.words import shown


@dataclass(frozen=True)
class Layer:
    """A shared layer; what is not known of it is None.

    :ivar position: its place in the order in which the network registers its layers, from 1.
    :ivar rate: the share of its task pairs that conflict, with its 95% interval; in the stage that was ranked by, if
        that is not the whole profile.
    :ivar share: the part of all layers' conflicts that is this layer's.
    :ivar size: number of parameters.
    :ivar is_split: whether the split that the report shows first has copies of it.
    :ivar stages: its rate in each stage of the profile, `whole` in all of them together.
    :ivar runs: its rate in each training run; None where it is not shared.
    :ivar other_places: its place in each further ranking, from 1.
    """

    name: str
    type: str | None
    aliases: tuple[str, ...]
    position: int | None
    score: float
    rate: float | None
    low: float | None
    high: float | None
    share: float | None
    size: int | None
    gds: float | None
    gms: float | None
    is_split: bool
    stages: tuple[float | None, ...]
    whole: float | None
    runs: tuple[float | None, ...]
    other_places: tuple[int | None, ...]


def rate_of(scores: Scores, layer: ScoredLayer | None, severity: float, stage: int | None = None) -> float | None:
    """The share of a layer's task pairs that conflict; None where none was measured, or the count is not known.

    :param layer: None for all shared layers as one.
    """
    pairs = scores.pairs(layer, stage)
    if not pairs or not scores.can_count(severity):
        return None
    return scores.conflicts(layer, severity, stage) / pairs


def layers_of(
    ranking: Ranking,
    severity: float,
    profile: Scores | None,
    runs: Sequence[Run],
    others: Sequence[NamedRanking],
    split: Sequence[str],
) -> tuple[Layer, ...]:
    """The layers of a ranking in its order.

    :param split: the names of the layers that are split.
    """
    measured = {layer.name: layer for layer in profile.layers} if profile else {}
    of_runs = [(run.scores, {layer.name: layer for layer in run.scores.layers}) for run in runs]
    places = [{name: place for place, name in enumerate(other.ranking.names, start=1)} for other in others]
    in_split = set(split)

    def row(ranked: RankedLayer) -> Layer:
        own = measured.get(ranked.name)
        stages: tuple[float | None, ...] = ()
        if profile and own:
            stages = tuple(rate_of(profile, own, severity, stage + 1) for stage in range(len(own.stages)))
        low, high = ranked.interval or (None, None)
        return Layer(
            name=shown(ranked.name),
            type=shown(own.type) if own else None,
            aliases=tuple(shown(alias) for alias in ranked.aliases),
            position=ranked.position,
            score=ranked.score,
            rate=ranked.rate if ranked.pairs else None,
            low=low,
            high=high,
            share=ranked.share,
            size=ranked.size,
            gds=profile.gds(own) if profile and own else None,
            gms=profile.gms(own) if profile and own else None,
            is_split=bool(in_split.intersection((ranked.name, *ranked.aliases))),
            stages=stages,
            whole=rate_of(profile, own, severity) if profile and own else None,
            runs=tuple(
                rate_of(scores, known[ranked.name], severity) if ranked.name in known else None
                for scores, known in of_runs
            ),
            other_places=tuple(place.get(ranked.name) for place in places),
        )

    return tuple(row(layer) for layer in ranking.layers)
