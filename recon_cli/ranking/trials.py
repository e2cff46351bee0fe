"""How many independent trials a rate that was measured over time is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, pairwise
from statistics import fmean
from typing import TypeVar

Value = TypeVar("Value")

FEWEST_WINDOWS = 16
"""With fewer, their spread says little."""
_PARTS = 4
"""A rate that changes slowly over the run is not one that is uncertain, so each quarter has a mean of its own."""
_WINDOW_FACTOR = 5
"""The sum over the lags ends where they reach so many autocorrelation times (Sokal)."""


def autocorrelation_time(values: Sequence[float]) -> float:
    """The integrated autocorrelation time: 1 + 2 sum over the lags k of rho(k); 1 or more.

    Of n values the mean is as uncertain as that of n / tau independent ones.

    :param values: in the order of time; each quarter of them is taken around its own mean.
    """
    centred = [value - mean for part in quarters(values) for mean in [fmean(part)] for value in part]
    variance = sum(value * value for value in centred)
    if len(values) < FEWEST_WINDOWS or not variance:
        return 1.0
    time = 1.0
    part = len(values) / _PARTS
    for lag in count(1):
        if lag >= min(_WINDOW_FACTOR * time, part / 2):
            break
        time += 2 * sum(one * other for one, other in zip(centred, centred[lag:], strict=False)) / variance
    # What lies around its own mean is less spread than around the true one (Wolff 2004, Eq. 49).
    return max(1.0, time * (1 + (2 * lag - 1) / part))


def independent_trials(conflicts: Sequence[int], pairs: Sequence[int], iterations: int) -> float:
    """How many independent trials a rate of conflicts is worth, from its windows of time.

    It is that number n for which p (1 - p) / n is the variance of the rate p that the windows show: their spread around
    the mean of their quarter, times their autocorrelation time. A rate of 0 or 1 shows none, nor do few windows; there
    each iteration is a trial.

    :param conflicts: of each window.
    :param pairs: measured in each window.
    :param iterations: in which any pair was measured.
    :returns: at most the number of pairs.
    """
    there = [place for place, number in enumerate(pairs) if number]
    total = sum(pairs)
    rate = sum(conflicts) / total if total else 0.0
    if len(there) < FEWEST_WINDOWS or not 0 < rate < 1:
        return float(iterations)
    rates = [conflicts[place] / pairs[place] for place in there]
    squares = sum((value - mean) ** 2 for part in quarters(rates) for mean in [fmean(part)] for value in part)
    variance = squares / (len(rates) - _PARTS) * autocorrelation_time(rates) / len(rates)
    return min(float(total), max(1.0, rate * (1 - rate) / variance)) if variance else float(iterations)


def quarters(values: Sequence[Value]) -> Iterable[Sequence[Value]]:
    """The quarters of a series, as equal as they can be."""
    size = len(values)
    bounds = [part * size // _PARTS for part in range(_PARTS + 1)]
    return [values[begin:end] for begin, end in pairwise(bounds) if end > begin]
