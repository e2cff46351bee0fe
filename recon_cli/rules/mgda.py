"""MGDA: the shortest vector among the means of the gradients."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.grams import Active
from recon_cli.rules.rule import GramRule, Need, check_above
from recon_cli.rules.simplex import shortest_mean


class MGDAParameters(Record):
    """The parameter of MGDA."""

    normalise: Literal["none", "l2", "loss", "loss+"] = Field(
        default="none", description="what each gradient is divided by to find the weights: its norm, its loss, or both"
    )


class MGDA(GramRule[MGDAParameters]):
    """min |sum_i w_i g_i| over w >= 0 with sum(w) = 1, to optimality.

    It is the zero vector exactly where the point is Pareto-stationary. A task with a small gradient draws all weight if
    the gradients are not normalised; where they are, the weights that are found so are those of the gradients as they
    are, as in the published code.
    """

    NAME = "mgda"
    TITLE = "MGDA"
    PAPER = "Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018"
    PARAMETERS = MGDAParameters

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the rule needs, with these parameters."""
        return ("gram", "losses") if self.parameters.normalise in ("loss", "loss+") else ("gram",)

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        return shortest_mean(active.cosines, active.norms / self._divisors(active))

    def _divisors(self, active: Active) -> torch.Tensor:
        if self.parameters.normalise == "none":
            return torch.ones_like(active.norms)
        if self.parameters.normalise == "l2":
            return active.norms
        check_above(active.losses, 0, self._names(active.places), self.NAME, strictly=True)
        return active.losses if self.parameters.normalise == "loss" else active.losses * active.norms
