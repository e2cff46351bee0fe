"""Nash-MTL: the tasks bargain for the update."""

from __future__ import annotations

from math import sqrt

import torch

from recon_cli.rules.grams import Active
from recon_cli.rules.rule import GramRule, NoParameters


class NashMTL(GramRule[NoParameters]):
    """The weights a > 0 with G a = 1 / a, by Newton's method on the convex 0.5 a'Ga - sum(log a).

    As published the update has the length sqrt(T), however long the gradients are. On the scale `mean` it has the root
    mean square of their lengths. Where the point is Pareto-stationary no finite weights solve the equations; a little
    is added to the diagonal, and the update is nearly zero.
    """

    NAME = "nash-mtl"
    TITLE = "Nash-MTL"
    PAPER = "Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022"
    PUBLISHED = "the update has the length sqrt(T)"
    EXCEPTION = "as published, the update is as long for gradients of any size"

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        # The equations of unit gradients have the same solution, up to the gradients' lengths.
        weights = _bargained(active.cosines) / active.norms
        if self.scale == "published":
            return weights / active.size
        return weights / sqrt(len(weights))


_RIDGE = 1e-12
_STEPS = 200
_ROUNDING = 1e-14


def _bargained(cosines: torch.Tensor) -> torch.Tensor:
    """The solution of G a = 1 / a with a > 0."""
    tasks = len(cosines)
    gram = cosines + _RIDGE * torch.eye(tasks, dtype=torch.float64)
    weights = torch.ones(tasks, dtype=torch.float64)
    for _ in range(_STEPS):
        # In units of the weights so far, the curvature is at least one.
        scaled = gram * weights.outer(weights)
        slope = scaled.sum(1) - 1
        least = _ROUNDING * float(scaled.abs().sum(1).max())
        scaled.diagonal().add_(1)
        step = torch.linalg.solve(scaled, -slope)
        decrement = float(-(slope @ step))
        if decrement <= least**2:
            break
        # The function is self-concordant, so this step length is safe, and in the end it is a full step.
        weights = weights * (1 + (1.0 if decrement < 0.04 else 1 / (1 + sqrt(decrement))) * step)
    return weights
