"""RGW: gradients weighed at random."""

from __future__ import annotations

import torch

from recon_cli.rules.grams import Active
from recon_cli.rules.rule import GramRule, NoParameters


class RGW(GramRule[NoParameters]):
    """Random gradient weighting: softmax of standard normal numbers, drawn anew in every step."""

    NAME = "rgw"
    TITLE = "RGW"
    PAPER = "Lin et al., Reasonable Effectiveness of Random Weighting, TMLR 2022"
    EXCEPTION = "the order of the tasks decides which random number each of them gets"

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        return torch.randn(len(active.norms), generator=self.generator, dtype=torch.float64).softmax(0)
