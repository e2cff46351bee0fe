"""RLW: losses weighed at random."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.rule import LossRule, Present


class RLWParameters(Record):
    """The parameter of RLW."""

    distribution: Literal["normal", "uniform"] = Field(
        default="normal",
        description="normal: softmax of standard normal numbers; uniform: uniform numbers over their sum (CoNAL)",
    )


class RLW(LossRule[RLWParameters]):
    """Random loss weighting: weights drawn anew in every step (CoNAL, Eq. 3, with the uniform distribution)."""

    NAME = "rlw"
    TITLE = "RLW"
    PAPER = "Lin et al., Reasonable Effectiveness of Random Weighting, TMLR 2022"
    PARAMETERS = RLWParameters
    EXCEPTION = "the order of the tasks decides which random number each of them gets"

    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss."""
        tasks = len(present.losses)
        if self.parameters.distribution == "normal":
            return torch.randn(tasks, generator=self.generator, dtype=torch.float64).softmax(0)
        # Zero itself, which may be drawn, is no weight.
        drawn = 1 - torch.rand(tasks, generator=self.generator, dtype=torch.float64)
        return drawn / drawn.sum()
