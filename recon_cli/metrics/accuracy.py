"""Accuracy: the share of items whose class is right."""

from __future__ import annotations

import torch

from recon_cli.metrics.classes import classify, refuse_outside
from recon_cli.metrics.parameters import checked
from recon_cli.metrics.sums import Mean, count


class Accuracy(Mean):
    """The share of labels that the output agrees with.

    Outputs are [N, C, ...] for labels [N, ...], and mean the class with the highest; of the label's shape they are
    logits, which mean class 1 above zero and class 0 elsewhere. NaN means no class, and is wrong.

    :param ignore: the label of what is not counted.
    """

    HIGHER_IS_BETTER = True

    @checked
    def __init__(self, ignore: int | None = None) -> None:
        super().__init__(outside=count())
        self.ignore = ignore

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch."""
        batch = classify(output, label, self.ignore)
        self._add_values(batch.predicted == batch.label, batch.valid)
        self._add(outside=batch.outside)

    def compute(self) -> float:
        """The share over all batches, from 0 to 1."""
        refuse_outside(self._sums["outside"])
        return super().compute()


class PixelAccuracy(Accuracy):
    """Accuracy as it is used for dense labels, where those of no class are -1."""

    @checked
    def __init__(self, ignore: int | None = -1) -> None:
        super().__init__(ignore)
