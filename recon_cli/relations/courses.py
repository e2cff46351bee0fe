"""GDS, GMS and FD over time, smoothed, and at the end.

The paper of the measures smooths by the moving average over a tenth of the trajectory, and compares the mean of the
last 50 values. What was measured is kept in windows of time, so both are made of whole windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recon_cli.artifacts.scores import ScoredLayer, Scores
from recon_cli.artifacts.series import Means
from recon_cli.artifacts.tasks import Course, Measure

_LAST = 50
_SMOOTHED_OVER = 10
_DIGITS = 6


def courses_of(scores: Scores, layer: ScoredLayer | None) -> tuple[Course, ...]:
    """GDS and GMS of a layer, and FD of every shared representation; those that were measured over time.

    :param layer: None for all shared layers as one vector.
    """
    return tuple(_courses(scores, layer))


def windows_up_to(place: int, lengths: Sequence[int], least: float) -> slice:
    """The fewest windows up to one, itself included, that hold so many iterations; all, if they hold fewer.

    :param place: of the last of them.
    :param lengths: how many iterations each window holds.
    """
    held = 0
    for first in range(place, -1, -1):
        held += lengths[first]
        if held >= least:
            return slice(first, place + 1)
    return slice(0, place + 1)


def last_iterations(lengths: Sequence[int]) -> int:
    """How many iterations the windows hold that the values at the end are of."""
    return sum(lengths[windows_up_to(len(lengths) - 1, lengths, _LAST)])


def _courses(scores: Scores, layer: ScoredLayer | None) -> Iterator[Course]:
    series = scores.trunk_series if layer is None else layer.series
    if series is not None and scores.windows:
        yield _course("GDS", None, series.gds, series.pairs, scores.windows)
        yield _course("GMS", None, series.gms, series.pairs, scores.windows)
    for feature in scores.features:
        if feature.series is not None and scores.windows:
            yield _course("FD", feature.name, feature.series.fd, feature.series.iterations, scores.windows)


def _course(
    measure: Measure, feature: str | None, values: Means, weights: Sequence[int], lengths: Sequence[int]
) -> Course:
    """How a measure went.

    :param values: its mean in each window.
    :param weights: how many measurements each is the mean of.
    """

    def mean(part: slice) -> float | None:
        both = zip(values[part], weights[part], strict=True)
        known = [(value, weight) for value, weight in both if value is not None]
        total = sum(weight for _, weight in known)
        return round(sum(value * weight for value, weight in known) / total, _DIGITS) if total else None

    tenth = sum(lengths) / _SMOOTHED_OVER
    return Course(
        measure=measure,
        feature=feature,
        values=values,
        smoothed=tuple(mean(windows_up_to(place, lengths, tenth)) for place in range(len(values))),
        last=mean(windows_up_to(len(values) - 1, lengths, _LAST)),
    )
