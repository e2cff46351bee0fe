"""Cosines of random directions, which are the larger the fewer dimensions there are."""

from __future__ import annotations

from functools import cache
from itertools import count
from math import exp, lgamma, log

_ENOUGH = 1e-15


@cache
def random_rate(severity: float, dimensions: int) -> float:
    """How often the cosine of two random directions is below S: P(cos < S), where (1 + cos) / 2 ~ Beta(a, a).

    :param severity: S, in [-1, 1].
    :param dimensions: d, of which a = (d - 1) / 2; in one dimension the cosine is -1 or 1.
    """
    if dimensions == 1:
        return 0.5 if severity > -1 else 0.0
    if severity == 0:
        return 0.5
    if severity > 0:
        return 1 - random_rate(-severity, dimensions)
    return _incomplete_beta((1 + severity) / 2, (dimensions - 1) / 2)


def _incomplete_beta(x: float, a: float) -> float:
    """The regularised incomplete beta function I_x(a, a), for x up to 1/2: x^a (1 - x)^a / (a B(a, a)) times
    1 / (1 + d_1 / (1 + d_2 / (1 + ...))), evaluated from the front by Lentz's method.
    """
    if x <= 0:
        return 0.0
    factor = exp(lgamma(2 * a) - 2 * lgamma(a) + a * (log(x) + log(1 - x))) / a
    fraction, numerators, denominators = 1.0, 1.0, 0.0
    for index in count(1):
        term = _coefficient(index, x, a)
        denominators = 1 / (1 + term * denominators)
        numerators = 1 + term / numerators
        fraction *= numerators * denominators
        if abs(numerators * denominators - 1) < _ENOUGH:
            break
    return factor / fraction


def _coefficient(index: int, x: float, a: float) -> float:
    half = index // 2
    if index % 2:
        return -(a + half) * (2 * a + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
    return half * (a - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
