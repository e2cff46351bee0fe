"""How far a ranking would be another one had other batches been drawn: a bootstrap over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, comb
from statistics import NormalDist, fmean, stdev

from recon_cli.artifacts.cosines import Cosines
from recon_cli.artifacts.ranking import RankedLayer, Ranking, Stability
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError, counted, number
from recon_cli.ranking.evidence import Course
from recon_cli.ranking.kinds import CONFLICTS, KINDS
from recon_cli.ranking.rank import measurements_of, rank
from recon_cli.ranking.resampling import RESAMPLINGS, block_length, halvings, resamplings

_TAIL = 0.025
_QUANTILE = NormalDist().inv_cdf(1 - _TAIL)


def rank_with_stability(
    scores: Scores,
    k: int,
    severity: float | None = None,
    stage: int | None = None,
    cosines: Cosines | None = None,
    kind: str = CONFLICTS,
) -> Ranking:
    """Rank the shared layers, and say how certain that is.

    :param k: how many layers count as the top, of which there are more.
    :raises ReconError: as :func:`recon_cli.ranking.rank.rank` does, if k is out of range, or if the scores do not say
        how conflicts at this severity came over time.
    """
    ranking = rank(scores, severity, stage, cosines, kind)
    if not 1 <= k <= len(ranking.layers):
        raise ReconError(f"--stability {k} is out of range: {counted(len(ranking.layers), 'layer')} are ranked")
    measurements = measurements_of(scores, severity, stage, cosines, kind)
    courses = {}
    for layer in scores.layers:
        course = measurements.over_time(layer)
        if course is None:
            raise _not_known(scores, measurements.severity)
        courses[layer.name] = course
    return with_stability(ranking, courses, k)


def with_stability(ranking: Ranking, courses: Mapping[str, Course], k: int) -> Ranking:
    """A ranking, and how certain it is.

    :param courses: what was measured of each layer over time, in the model's order.
    :param k: how many layers count as the top.
    :raises ReconError: if that is of too few windows of time.
    """
    windows = len(next(iter(courses.values())).pairs)
    block = block_length(((course.below, course.pairs) for course in courses.values()), windows)
    value = KINDS[ranking.kind].value

    def scored(times: Sequence[int]) -> dict[str, float]:
        return {name: value(course.resampled(times)) for name, course in courses.items()}

    drawn = [scored(times) for times in resamplings(windows, block)]
    places = [{name: place for place, name in enumerate(_order(scores), start=1)} for scores in drawn]
    tiers = _tiers(ranking, drawn)
    halves = [tuple(set(_order(scored(times))[:k]) for times in both) for both in halvings(windows, block)]
    layers = [_layer(layer, [place[layer.name] for place in places], k, tiers) for layer in ranking.layers]
    return ranking.model_copy(
        update={
            "layers": tuple(layers),
            "stability": Stability(
                k=k,
                resamplings=RESAMPLINGS,
                block=block,
                overlap=fmean(len(one & other) / k for one, other in halves),
                iterations_to_settle=_iterations_to_settle(ranking, drawn, k),
            ),
        }
    )


def _order(scores: Mapping[str, float]) -> list[str]:
    """The layers by falling score, ties in the model's order."""
    return sorted(scores, key=lambda name: -scores[name])


def _layer(layer: RankedLayer, places: Sequence[int], k: int, tiers: Mapping[str, int]) -> RankedLayer:
    ordered = sorted(places)
    tail = int(_TAIL * len(ordered))
    return layer.model_copy(
        update={
            "in_top": sum(place <= k for place in places) / len(places),
            "places": (ordered[tail], ordered[-1 - tail]),
            "tier": tiers[layer.name],
        }
    )


def _tiers(ranking: Ranking, drawn: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """Layer -> tier, from 1; a tier ends where a layer scores lower than its first by more than chance explains."""
    # The first of many equal layers is the highest by chance, so all pairs have to be allowed for.
    quantile = NormalDist().inv_cdf(1 - _TAIL / max(1, comb(len(ranking.layers), 2)))
    tiers: dict[str, int] = {}
    first, tier = ranking.layers[0], 1
    for layer in ranking.layers:
        if first.score - layer.score > quantile * _deviation(first.name, layer.name, drawn):
            first, tier = layer, tier + 1
        tiers[layer.name] = tier
    return tiers


def _deviation(one: str, other: str, drawn: Sequence[Mapping[str, float]]) -> float:
    """That of the difference of two layers' scores."""
    return stdev(scores[one] - scores[other] for scores in drawn)


def _iterations_to_settle(ranking: Ranking, drawn: Sequence[Mapping[str, float]], k: int) -> int | None:
    if k >= len(ranking.layers) or ranking.iterations is None:
        return None
    inside, outside = ranking.layers[k - 1], ranking.layers[k]
    apart = inside.score - outside.score
    if not apart:
        return None
    deviation = _deviation(inside.name, outside.name, drawn)
    # The deviation of a mean falls with the root of the number of iterations.
    return max(1, ceil(ranking.iterations * (_QUANTILE * deviation / apart) ** 2))


def _not_known(scores: Scores, severity: float) -> ReconError:
    if not scores.windows:
        return ReconError("scores of old versions do not say how conflicts came over time", "profile the network again")
    return ReconError(
        f"the scores do not say how conflicts below {number(severity)} came over time",
        f"choose one of {', '.join(number(known) for known in scores.severities)}",
    )
