"""The F1 score: the harmonic mean of precision and recall."""

from __future__ import annotations

from typing import Literal

from recon_cli.errors import ReconError
from recon_cli.metrics.confusion import ConfusionMetric
from recon_cli.metrics.parameters import Classes, checked


class F1(ConfusionMetric):
    """F1_c = 2 right_c / (labelled_c + predicted_c), of all batches together.

    :param average: `binary`, F1 of class 1 of two, or `macro`, the mean over the classes, of which one that is neither
        labelled nor predicted anywhere is left out.
    :param classes: how many there are; labels are 0 to classes - 1.
    :param ignore: the label of what is not counted. If it is one of the classes, that class is left out of the mean.
    :raises ReconError: if a binary score is asked of more than two classes.
    """

    @checked
    def __init__(
        self, average: Literal["binary", "macro"] = "binary", classes: Classes = 2, ignore: int | None = None
    ) -> None:
        if average == "binary" and classes != 2:
            raise ReconError(f"the binary F1 score is of two classes, not of {classes}", "set `average: macro`")
        super().__init__(classes, ignore)
        self.average = average

    def compute(self) -> float:
        """The score, from 0 to 1; NaN if no class that it is of is labelled or predicted anywhere."""
        right, labelled, predicted = self._class_counts()
        if self.average == "binary":
            return float(2 * right[1] / (labelled[1] + predicted[1]))
        return self._mean_over_classes(2 * right, labelled + predicted)
