"""Whether tasks differ in how often they conflict, or chance alone explains it."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

_BEYOND = NormalDist().inv_cdf(0.95)


def differ_beyond_chance(measured: Sequence[int], conflicts: Sequence[int]) -> bool:
    """Whether shares differ by more than those of equal chances would in 19 of 20 cases: the chi-squared test of
    homogeneity, with the cube root of the statistic taken as normal (Wilson and Hilferty, 1931).

    :param measured: the trials of each; those without any are passed over.
    :param conflicts: how many of them came true.
    """
    known = [(times, count) for times, count in zip(measured, conflicts, strict=True) if times]
    freedom = len(known) - 1
    share = sum(count for _, count in known) / (sum(times for times, _ in known) or 1)
    if freedom < 1 or share in (0, 1):
        return False
    statistic = sum((count - times * share) ** 2 / (times * share * (1 - share)) for times, count in known)
    variance = 2 / (9 * freedom)
    root: float = (statistic / freedom) ** (1 / 3)
    return (root - (1 - variance)) / sqrt(variance) > _BEYOND
