"""How far a measured rate may be from the true one."""

from __future__ import annotations

from math import sqrt

_QUANTILE = 1.959963984540054
"""Of the normal distribution at 97.5%, for an interval of 95%."""


def wilson_interval(rate: float, trials: int) -> tuple[float, float]:
    """The 95% confidence interval of a binomial rate, by Wilson's score.

    :param rate: the share of successes, in [0, 1]; a mean of means need not be a whole number of trials.
    :param trials: the number of independent trials, 1 or more.
    :returns: both ends, in [0, 1]; the rate lies between them.
    """
    spread = _QUANTILE**2 / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
    # Rounding must not part the interval from the rate, nor carry it past 0 or 1.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
