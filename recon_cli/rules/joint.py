"""Joint training: every task counts alike."""

from __future__ import annotations

from typing import ClassVar

import torch

from recon_cli.rules.rule import LossRule, Need, NoParameters, Present


class Joint(LossRule[NoParameters]):
    """The mean of the losses; as published, their sum."""

    NAME = "joint"
    TITLE = "Joint training"
    PAPER = "Caruana, Multitask Learning, Machine Learning 28, 1997"
    NEEDS: ClassVar[tuple[Need, ...]] = ()
    PUBLISHED = "the sum of the losses"

    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss."""
        return torch.ones_like(present.losses)
