"""Uncertainty weighting: losses divided by what noise each task seems to have."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.adam import descend, fresh
from recon_cli.rules.rule import LossRule, Present


class UncertaintyParameters(Record):
    """The parameter of uncertainty weighting."""

    learning_rate: float = Field(
        default=0.001, gt=0, description="of Adam for the s; the paper has them in the network's optimizer"
    )


class Uncertainty(LossRule[UncertaintyParameters]):
    """sum_i (exp(-s_i) L_i + s_i) / 2, where the s_i = log(sigma_i^2) begin at 0 and are learned by its gradient."""

    NAME = "uncertainty"
    TITLE = "Uncertainty weighting"
    PAPER = "Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018"
    PARAMETERS = UncertaintyParameters
    PUBLISHED = "the weights exp(-s) / 2 add up to anything"
    EXCEPTION = "the weights follow the size of the losses, also of all of them"
    NEGATIVE = False
    LEARNED = ("variances",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.variances = fresh(len(self.tasks))

    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss."""
        weights = (-self.variances[0, list(present.places)]).exp() / 2
        gradient = 0.5 - weights * present.losses
        descend(self.variances, present.places, gradient, rate=self.parameters.learning_rate)
        return weights
