"""PCGrad: gradients projected away from those that they conflict with, one after another."""

from __future__ import annotations

import torch

from recon_cli.rules.grams import Active
from recon_cli.rules.rule import GramRule, NoParameters


class PCGrad(GramRule[NoParameters]):
    """Each g_i, for the other g_j in random order: if g_i . g_j < 0, g_i -= (g_i . g_j / |g_j|^2) g_j; then their sum.

    With three tasks or more the result depends on the order, and may still conflict.
    """

    NAME = "pcgrad"
    TITLE = "PCGrad"
    PAPER = "Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020"
    PUBLISHED = "the sum of the gradients"
    EXCEPTION = "with three tasks or more, the order of the tasks decides the random order of the projections"
    SUMS = True

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        tasks, cosines = len(active.norms), active.cosines
        # Each row: a task's gradient as a combination of unit gradients.
        rows = torch.diag(active.norms)
        for task in range(tasks):
            along = cosines[task] * active.norms[task]
            for other in torch.randperm(tasks, generator=self.generator).tolist():
                if other != task and (length := float(along[other])) < 0:
                    rows[task, other] -= length
                    along = along - length * cosines[other]
        return rows.sum(0) / active.norms
