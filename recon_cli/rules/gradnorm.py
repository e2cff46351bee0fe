"""GradNorm: gradients brought to lengths that follow how fast each task learns."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.adam import descend, fresh
from recon_cli.rules.rule import LossRule, Need, Present, check_above


class GradNormParameters(Record):
    """The parameters of GradNorm."""

    alpha: float = Field(default=1.5, description="how strongly tasks that learn more slowly are helped")
    learning_rate: float = Field(default=0.025, gt=0, description="of Adam for the weights")


class GradNorm(LossRule[GradNormParameters]):
    """The weights w, learned by the gradient of sum_i | w_i n_i - n r_i^alpha |, with sum(w) = T.

    n_i is the norm of g_i, n the mean of the w_i n_i, taken for a constant, and r_i the loss relative to the first one,
    over the mean of these ratios. The gradient is sign(w_i n_i - n r_i^alpha) n_i; it is divided by n, so that it
    has no size. The paper takes the norms in the last shared layer; here they are those of the Gram matrix.
    """

    NAME = "gradnorm"
    TITLE = "GradNorm"
    PAPER = "Chen et al., GradNorm, ICML 2018"
    NEEDS: ClassVar[tuple[Need, ...]] = ("losses", "gram")
    PARAMETERS = GradNormParameters
    PUBLISHED = "the weights add up to T"
    NEGATIVE = False
    LEARNED = ("learned", "first")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.learned = fresh(len(self.tasks), 1.0)
        self.first = torch.full((len(self.tasks),), torch.nan, dtype=torch.float64)
        """[T]: each task's first loss."""

    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss."""
        assert present.norms is not None
        at = list(present.places)
        first = torch.where(self.first[at].isnan(), present.losses, self.first[at])
        check_above(first, 0, self._names(at), self.NAME, strictly=True)
        self.first[at] = first
        weights = self.learned[0, at].clone()
        ratios = present.losses / first
        ratios = ratios / ratios.mean() if bool(ratios.any()) else torch.ones_like(ratios)
        lengths = weights * present.norms
        mean = lengths.mean()
        if mean > 0:
            slope = (lengths - mean * ratios**self.parameters.alpha).sign() * present.norms / mean
            descend(self.learned, at, slope, rate=self.parameters.learning_rate)
            # A step may overshoot zero, and a weight below it would raise the loss.
            self.learned[0, at] = self.learned[0, at].clamp(min=_LEAST)
            self.learned[0] *= len(self.tasks) / self.learned[0].sum()
        return weights


_LEAST = 1e-3
