"""CAGrad: the update near the mean gradient under which the worst task improves most."""

from __future__ import annotations

from math import sqrt

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.grams import Active
from recon_cli.rules.rule import GramRule
from recon_cli.rules.simplex import costs_of, minimise


class CAGradParameters(Record):
    """The parameter of CAGrad."""

    c: float = Field(default=0.4, ge=0, description="how far the update may be from the mean gradient, relative to it")


class CAGrad(GramRule[CAGradParameters]):
    """max_d min_i g_i . d, where |d - g_0| <= c |g_0| and g_0 is the mean of the gradients.

    By its dual: w minimises g_w . g_0 + c |g_0| |g_w| over w >= 0 with sum(w) = 1, where g_w = sum_i w_i g_i; the
    update is g_0 + c |g_0| g_w / |g_w|. c = 0 is joint training. Published code divides it by 1 + c^2.
    """

    NAME = "cagrad"
    TITLE = "CAGrad"
    PAPER = "Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021"
    PARAMETERS = CAGradParameters
    PUBLISHED = "the weights add up to (1 + c) / (1 + c^2) where the tasks agree"

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        tasks, c = len(active.norms), self.parameters.c
        weights = torch.full((tasks,), 1 / tasks, dtype=torch.float64)
        products = active.cosines @ active.norms / tasks
        length = (active.norms @ products / tasks).clamp(min=0).sqrt()
        # A mean of gradients that is only rounding has no direction.
        if c and length > _NO_LENGTH * active.norms.max():
            direction = _direction(active.cosines, products / length, costs_of(active.norms), c)
            weights = weights + c * length * direction / active.norms
        return weights / (1 + c**2) if self.scale == "published" else weights / (1 + c)


_NO_LENGTH = 1e-8
_SHORTEST = 1e-8
_SETTLED = 1e-12
_ROUNDS = 60


def _direction(cosines: torch.Tensor, linear: torch.Tensor, costs: torch.Tensor, c: float) -> torch.Tensor:
    """The x / |x|, as a combination of unit gradients, for the x that minimises b'x + c |x|, where |x|^2 = x'Qx.

    As c |x| = min_r c/2 (x'Qx / r + r), x solves a quadratic program for the right r, which is |x|. Where |x| comes to
    nothing, tasks are held where they are, and x / r says how: it is shorter than one.
    """
    low, high, square = 0.0, torch.inf, 1.0
    parts, before = None, (0.0, 0.0)
    for _ in range(_ROUNDS):
        parts = minimise(cosines, linear * (sqrt(square) / c), costs, parts)
        found = float((parts @ cosines @ parts).clamp(min=0))
        if abs(found - square) <= _SETTLED * square or (found < square and square <= _SHORTEST**2):
            break
        low, high = (square, high) if found > square else (low, square)
        # As long as the same parts are zero, |x|^2 is linear in r^2, and grows by less.
        slope = (found - before[1]) / (square - before[0])
        guess = (found - slope * square) / (1 - slope) if before[0] and slope < 1 else found
        before = (square, found)
        if not low < guess < high:
            guess = found if low < found < high else sqrt(max(low, _SHORTEST**2) * min(high, 1e4 * max(low, 1.0)))
        if abs(guess - square) <= _SETTLED * square:
            break
        square = max(guess, _SHORTEST**2)
    assert parts is not None
    return parts / max(sqrt(square), sqrt(found))
