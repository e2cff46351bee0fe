"""RLW: losses weighed at random."""

from __future__ import annotations

import torch

from recon_cli.rules.rule import LossRule, NoParameters, Present


class RLW(LossRule[NoParameters]):
    """Random loss weighting: softmax of standard normal numbers, drawn anew in every step."""

    NAME = "rlw"
    TITLE = "RLW"
    PAPER = "Lin et al., Reasonable Effectiveness of Random Weighting, TMLR 2022"
    EXCEPTION = "the order of the tasks decides which random number each of them gets"

    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss."""
        return torch.randn(len(present.losses), generator=self.generator, dtype=torch.float64).softmax(0)
