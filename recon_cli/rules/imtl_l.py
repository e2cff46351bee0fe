"""IMTL-L: losses brought to one size."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.adam import descend, fresh
from recon_cli.rules.rule import LossRule, Present


class IMTLLParameters(Record):
    """The parameter of IMTL-L."""

    learning_rate: float = Field(
        default=0.001, gt=0, description="of Adam for the s; the paper has them in the network's optimizer"
    )


class IMTLL(LossRule[IMTLLParameters]):
    """sum_i (exp(s_i) L_i - s_i), where the s_i begin at 0 and are learned by its gradient, exp(s_i) L_i - 1."""

    NAME = "imtl-l"
    TITLE = "IMTL-L"
    PAPER = "Liu et al., Towards Impartial Multi-task Learning, ICLR 2021"
    PARAMETERS = IMTLLParameters
    PUBLISHED = "the weights exp(s) add up to anything"
    EXCEPTION = "the weights follow the size of the losses, also of all of them"
    NEGATIVE = False
    LEARNED = ("scales",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scales = fresh(len(self.tasks))

    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss."""
        weights = self.scales[0, list(present.places)].exp()
        descend(self.scales, present.places, weights * present.losses - 1, rate=self.parameters.learning_rate)
        return weights
