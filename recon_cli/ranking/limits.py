"""How far apart rankings may lie, for checks that fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from recon_cli.artifacts.comparison import Comparison, OptionalMatrix
from recon_cli.errors import ReconError, did_you_mean, number, quoted


@dataclass(frozen=True)
class _Measure:
    """A measure that is the higher the more alike two rankings are, 1 at most.

    :ivar lowest: the least that it can be.
    """

    lowest: int
    of: Callable[[Comparison], OptionalMatrix]


_MEASURES: Mapping[str, _Measure] = {
    "similarity": _Measure(0, lambda comparison: comparison.similarity),
    "tau": _Measure(-1, lambda comparison: comparison.tau),
    "rho": _Measure(-1, lambda comparison: comparison.rho),
    "overlap": _Measure(0, lambda comparison: comparison.overlap),
}


def failures(comparison: Comparison, above: float | None, below: Sequence[str]) -> list[str]:
    """A sentence for each limit that two of the rankings do not keep.

    :param above: the largest distance (Eq. 22) that is allowed, or None.
    :param below: the least that is allowed of other measures, such as `overlap=0.8`.
    :raises ReconError: if one of them is no limit.
    """
    if above is not None and not above >= 0:
        raise ReconError(f"--fail-above {number(above)} is no distance; a number of 0 or more is needed")
    least = [_limit(text) for text in below]
    found = [] if above is None else [_too_far(comparison, above)]
    found += [_too_low(comparison, name, limit) for name, limit in least]
    return [sentence for sentence in found if sentence is not None]


def _limit(text: str) -> tuple[str, float]:
    """The measure and the number of a limit such as `overlap=0.8`."""
    name, _, value = text.partition("=")
    if name not in _MEASURES:
        known = ", ".join(_MEASURES)
        raise ReconError(
            f"--fail-below {text}: there is no measure {quoted(name)}",
            did_you_mean(name, _MEASURES) or f"there are {known}; the distance has --fail-above",
        )
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not _MEASURES[name].lowest <= limit <= 1:
        raise ReconError(
            f"--fail-below {text}: no number from {_MEASURES[name].lowest} to 1", f"write it as {name}=0.8"
        )
    return name, limit


def _too_far(comparison: Comparison, limit: float) -> str | None:
    distances = {pair: comparison.distance[i][j] for pair, i, j in _pairs(comparison)}
    pair = max(distances, key=distances.__getitem__)
    if distances[pair] <= limit:
        return None
    return f"the largest distance, {number(distances[pair])} between {pair}, is above {number(limit)}"


def _too_low(comparison: Comparison, name: str, limit: float) -> str | None:
    matrix = _MEASURES[name].of(comparison)
    figures = {}
    for pair, i, j in _pairs(comparison):
        figure = matrix[i][j]
        if figure is None:
            return f"{name} between {pair} is not known, because all scores of one are equal"
        figures[pair] = figure
    pair = min(figures, key=figures.__getitem__)
    if figures[pair] >= limit:
        return None
    return f"the lowest {name}, {number(figures[pair])} between {pair}, is below {number(limit)}"


def _pairs(comparison: Comparison) -> Iterable[tuple[str, int, int]]:
    """Every two rankings: what they are called, and their places."""
    for (i, one), (j, other) in combinations(enumerate(comparison.rankings), 2):
        yield f"{quoted(one)} and {quoted(other)}", i, j
