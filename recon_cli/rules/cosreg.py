"""CosReg: gradients kept orthogonal by a penalty on their cosines."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.grams import Active
from recon_cli.rules.rule import PenaltyRule


class CosRegParameters(Record):
    """The parameters of CosReg."""

    coefficient: float = Field(default=1.0, gt=0, description="of the penalty, beside the losses")
    pairs: Literal["mean", "sum"] = Field(default="mean", description="how the pairs' squared cosines become one")


class CosReg(PenaltyRule[CosRegParameters]):
    """The losses, and coefficient times the mean of cos(g_i, g_j)^2 over the pairs of tasks.

    Tasks without a gradient have no cosine, and their pairs do not count.
    """

    NAME = "cosreg"
    TITLE = "CosReg"
    PAPER = "Suteu and Guo, Regularizing Deep Multi-Task Networks using Orthogonal Gradients, 2019"
    PARAMETERS = CosRegParameters
    PUBLISHED = "the sum of the losses"
    EXCEPTION = "the penalty is as large for gradients of any size"

    def active_slopes(self, active: Active) -> torch.Tensor:
        """M of them: d cos_ij^2 / dg_i = 2 cos_ij (g_j / |g_j| - cos_ij g_i / |g_i|) / |g_i|."""
        cosines = active.cosines - torch.diag(active.cosines.diagonal())
        along = torch.diag(cosines.square().sum(1))
        slopes = 2 * (cosines - along) / active.norms.outer(active.norms)
        number = len(active.norms)
        share = 1 if self.parameters.pairs == "sum" else 2 / (number * (number - 1))
        return self.parameters.coefficient * share * slopes
