"""How far a measured rate, or the ratio of two, may be from the true one."""

from __future__ import annotations

from math import sqrt

_QUANTILE = 1.959963984540054
"""Of the normal distribution at 97.5%, for an interval of 95%."""


def wilson_interval(rate: float, trials: float) -> tuple[float, float]:
    """The 95% confidence interval of a binomial rate, by Wilson's score.

    :param rate: the share of successes, in [0, 1]; a mean of means need not be a whole number of trials.
    :param trials: the number of independent trials, 1 or more; a mean need not be worth a whole number of them.
    :returns: both ends, in [0, 1]; the rate lies between them.
    """
    spread = _QUANTILE**2 / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
    # Rounding must not part the interval from the rate, nor carry it past 0 or 1.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def ratio_interval(rate: float, trials: int, base: float, base_trials: int) -> tuple[float, float]:
    """The 95% confidence interval of `rate / base`, two rates of independent trials.

    By the method of variance estimates recovery for ratios (MOVER-R, Donner and Zou 2012) from Wilson's intervals of
    both, which holds where `rate` is 0 as well.

    :param rate: a share of successes, in [0, 1].
    :param trials: the number of independent trials that it is of.
    :param base: the share that it is compared with, above 0.
    :param base_trials: the number of independent trials that this is of.
    :returns: both ends, 0 or more; the ratio lies between them.
    """
    low, high = wilson_interval(rate, trials)
    base_low, base_high = wilson_interval(base, base_trials)
    product = rate * base

    def root(end: float, base_end: float) -> float:
        # Never below 0 but by rounding.
        return sqrt(max(0.0, product**2 - end * (2 * rate - end) * base_end * (2 * base - base_end)))

    ratio = rate / base
    # The published quotient, extended so that it holds where its denominator is 0.
    least = low * (2 * rate - low) / (product + root(low, base_high)) if rate else 0.0
    most = (product + root(high, base_low)) / (base_low * (2 * base - base_low))
    return min(ratio, least), max(ratio, most)
