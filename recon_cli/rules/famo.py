"""FAMO: all losses brought down at one rate, without any task's own gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.errors import ReconError
from recon_cli.rules.adam import descend, fresh
from recon_cli.rules.grams import check_finite
from recon_cli.rules.rule import LossRule, Need, Present, check_above, plain


class FAMOParameters(Record):
    """The parameters of FAMO."""

    learning_rate: float = Field(default=0.025, gt=0, description="of Adam for the logits")
    decay: float = Field(default=0.001, ge=0, description="weight decay of the logits; the published code has 0.00001")


class FAMO(LossRule[FAMOParameters]):
    """sum_i z_i log(L_i), over the sum of all z_i / L_i, where z = softmax(logits).

    After the step the logits move by the gradient of sum_i z_i (log L_i - log L'_i), where L' are the losses of the
    same batch after it: tasks that improved less gain.
    """

    NAME = "famo"
    TITLE = "FAMO"
    PAPER = "Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023"
    NEEDS: ClassVar[tuple[Need, ...]] = ("losses", "new losses")
    PARAMETERS = FAMOParameters
    LEARNED = ("logits", "before")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logits = fresh(len(self.tasks))
        self.before = torch.full((len(self.tasks),), torch.nan, dtype=torch.float64)
        """[T]: the logarithms of the losses of the step that was made last; NaN for tasks that were not there."""

    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss."""
        check_above(present.losses, 0, self._names(present.places), self.NAME, strictly=True)
        logs = present.losses.log()
        self.before = torch.full_like(self.before, torch.nan)
        self.before[list(present.places)] = logs
        # z / L over their sum; the logarithms also hold what the quotients do not.
        return (self.logits[0, list(present.places)] - logs).softmax(0)

    def after_step(self, losses: torch.Tensor) -> None:
        """Learn from the losses of the same batch after the step, [T]; those of tasks that were not there do not count.

        :raises ReconError: if no step was made since, or a loss is NaN, infinite or not above zero.
        """
        at = (~self.before.isnan()).nonzero().flatten().tolist()
        if not at:
            raise ReconError("FAMO has no losses to compare with", "make a step before each `after_step`")
        losses = plain(losses)[at]
        check_finite(losses, self._names(at), "loss after the step")
        check_above(losses, 0, self._names(at), self.NAME, strictly=True)
        shares = self.logits[0, at].softmax(0)
        gained = self.before[at] - losses.log()
        slope = shares * (gained - shares @ gained)
        descend(self.logits, at, slope, rate=self.parameters.learning_rate, decay=self.parameters.decay)
        self.before = torch.full_like(self.before, torch.nan)
