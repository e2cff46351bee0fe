"""The confusion matrix, summed over all batches, and what is computed from it for every class."""

from __future__ import annotations

from typing import NamedTuple

import torch

from recon_cli.errors import ReconError
from recon_cli.metrics.classes import classify, refuse_outside
from recon_cli.metrics.sums import SummedMetric, count, histogram


class ClassCounts(NamedTuple):
    """Counts of items for each of C classes, each [C] in float64 on the CPU.

    :ivar right: of the class, and predicted to be.
    :ivar labelled: of the class.
    :ivar predicted: predicted to be of the class.
    """

    right: torch.Tensor
    labelled: torch.Tensor
    predicted: torch.Tensor


class ConfusionMetric(SummedMetric):
    """A metric of how many items of each class are predicted to be of each class.

    Outputs and labels are those of :class:`~recon_cli.metrics.accuracy.Accuracy`.

    :param classes: how many there are.
    :param ignore: the label of what is not counted. If it is one of the classes, that class is left out of means.
    """

    HIGHER_IS_BETTER = True

    def __init__(self, classes: int, ignore: int | None) -> None:
        # NaN is predicted to be of no class, which is the last column.
        super().__init__(matrix=torch.zeros(classes, classes + 1, dtype=torch.int64), outside=count())
        self.classes = classes
        self.ignore = ignore

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch.

        :raises ReconError: also if the output has another number of classes.
        """
        batch = classify(output, label, self.ignore)
        if batch.classes != self.classes:
            raise ReconError(
                f"the output of shape {tuple(output.shape)} has {batch.classes} classes, but the metric was "
                f"made for {self.classes}",
                f"set `classes: {batch.classes}`",
            )
        columns = self.classes + 1
        cells = self.classes * columns
        place = torch.where(batch.valid, batch.label * columns + batch.predicted, cells)
        self._add(matrix=histogram(place, cells + 1)[:cells].view(-1, columns), outside=batch.outside)

    def _class_counts(self) -> ClassCounts:
        """What was counted.

        :raises ReconError: if a label names no class.
        """
        sums = self.state()
        refuse_outside(sums["outside"])
        matrix = sums["matrix"].double()
        return ClassCounts(matrix.diagonal(), matrix.sum(1), matrix.sum(0)[: self.classes])

    def _mean_over_classes(self, parts: torch.Tensor, wholes: torch.Tensor) -> float:
        """The mean of part / whole over the classes that have a whole; NaN where none has."""
        there = wholes > 0
        if self.ignore is not None and 0 <= self.ignore < self.classes:
            there[self.ignore] = False
        return float((parts[there] / wholes[there]).mean())
