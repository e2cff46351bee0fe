"""DWA: tasks whose losses fall more slowly count more."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.rule import LossRule, Need, Present


class DWAParameters(Record):
    """The parameter of DWA."""

    temperature: float = Field(default=2.0, gt=0, description="the higher, the more alike the weights")


class DWA(LossRule[DWAParameters]):
    """T softmax(q / temperature), where q_i = L_i(t - 1) / L_i(t - 2), the mean losses of the last two epochs.

    q_i is 1 in the first two epochs, and where L_i(t - 2) is zero.
    """

    NAME = "dwa"
    TITLE = "DWA"
    PAPER = "Liu et al., End-to-End Multi-Task Learning with Attention, CVPR 2019"
    NEEDS: ClassVar[tuple[Need, ...]] = ("losses", "epochs")
    PARAMETERS = DWAParameters
    PUBLISHED = "the weights add up to T"
    LEARNED = ("sums", "means")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sums = torch.zeros(2, len(self.tasks), dtype=torch.float64)
        """[2, T]: the sum of the losses of this epoch, and their number."""
        self.means = torch.full((2, len(self.tasks)), torch.nan, dtype=torch.float64)
        """[2, T]: the mean losses of the last two epochs, the older first."""

    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss."""
        at = list(present.places)
        self.sums[:, at] += torch.stack([present.losses, torch.ones_like(present.losses)])
        older, newer = self.means[:, at]
        rates = newer / older
        rates = torch.where(rates.isfinite(), rates, 1.0)
        return len(at) * (rates / self.parameters.temperature).softmax(0)

    def after_epoch(self) -> None:
        """Take the means of the epoch; a task without a loss in it keeps those that it has."""
        seen = self.sums[1] > 0
        self.means[:, seen] = torch.stack([self.means[1], self.sums[0] / self.sums[1]])[:, seen]
        self.sums = torch.zeros_like(self.sums)
