"""GradOPS: gradients projected away from all that they conflict with, and weighed by what is left of them."""

from __future__ import annotations

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.grams import Active, spectrum
from recon_cli.rules.rule import GramRule


class GradOPSParameters(Record):
    """The parameter of GradOPS."""

    alpha: float = Field(default=0.0, description="0: all alike; above, tasks that dominate gain; below, they lose")


class GradOPS(GramRule[GradOPSParameters]):
    """For each i with some g_i . g_k < 0, g'_i is g_i less its projection on the span of the others; else it is g_i.

    The update is sum_i w_i g'_i, where R_i = (sum_j g'_j) . g_i / |g_i|, r_i = R_i / mean(R), and
    w_i = r_i^alpha / mean(r^alpha) (Eqs. 1 to 5). All of it follows from the Gram matrix; the order does not matter.
    Tasks of which nothing is left have R_i = 0, and the means are taken over the others. Nothing is left of any where
    each conflicts and depends on the others: in Pareto-stationary points, but also wherever there are more tasks in
    conflict than dimensions, as in a layer with few parameters.
    """

    NAME = "gradops"
    TITLE = "GradOPS"
    PAPER = "Zhu et al., Gradient Deconfliction via Orthogonal Projections onto Subspaces, WSDM 2025"
    PARAMETERS = GradOPSParameters
    PUBLISHED = "the sum of the gradients"
    SUMS = True

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        # Row i: g'_i as a combination of unit gradients.
        rows = _projections(active.cosines) * active.norms.unsqueeze(1)
        along = rows.sum(0) @ active.cosines
        weights = torch.ones_like(along)
        left = along > _NOTHING * active.norms
        if self.parameters.alpha and bool(left.any()):
            # r^alpha / mean(r^alpha), also where a power is no number any more.
            weights[left] = left.sum() * (self.parameters.alpha * along[left].log()).softmax(0)
        return (weights @ rows) / active.norms


_NOTHING = 1e-9
_DEPENDENT = 1e-9


def _projections(cosines: torch.Tensor) -> torch.Tensor:
    """Row i: the combination of unit gradients that the i-th, projected, is.

    If it is independent of the others, row i of the pseudo-inverse, divided by its own entry, is what the others leave
    of it; otherwise they leave nothing.
    """
    tasks = len(cosines)
    found = torch.eye(tasks, dtype=torch.float64)
    conflicting = (cosines < 0).any(1)
    if not bool(conflicting.any()):
        return found
    known = spectrum(cosines)
    inverse = known.inverse
    independent = known.vectors.square().sum(1) > 1 - _DEPENDENT
    found[conflicting] = 0
    projected = conflicting & independent
    found[projected] = inverse[projected] / inverse.diagonal()[projected].unsqueeze(1)
    return found
