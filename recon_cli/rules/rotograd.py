"""RotoGrad: gradients brought to one length, and features rotated so that they come to point in one direction."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.grams import Active
from recon_cli.rules.rule import GramRule, Need


class RotoGradParameters(Record):
    """The parameters of RotoGrad."""

    learning_rate: float = Field(
        default=0.0005, ge=0, description="of Adam for the rotations, lower than the network's; 0: scaling alone"
    )


class RotoGrad(GramRule[RotoGradParameters]):
    """The scaling: all gradients get the length C = sum_i a_i n_i, so that the weights are C / n_i.

    n_i is the norm of g_i = dL_i/dZ, and a_i is n_i relative to the first one, over the sum of these ratios: tasks
    whose gradients have shrunk less decide more. The rotations follow from the same weights, outside of the rule.
    """

    NAME = "rotograd"
    TITLE = "RotoGrad"
    PAPER = "Javaloy and Valera, RotoGrad: Gradient Homogenization in Multitask Learning, ICLR 2022"
    NEEDS: ClassVar[tuple[Need, ...]] = ("gram", "rotations")
    PARAMETERS = RotoGradParameters
    PUBLISHED = "the sum of the scaled gradients"
    SUMS = True
    LEARNED = ("first",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = torch.full((len(self.tasks),), torch.nan, dtype=torch.float64)
        """[T]: the norm of each task's first gradient."""

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        at = list(active.places)
        norms = active.norms * active.size
        self.first[at] = torch.where(self.first[at].isnan(), norms, self.first[at])
        ratios = norms / self.first[at]
        return (ratios / ratios.sum() * active.norms).sum() / active.norms
