"""The mean intersection over union of classes."""

from __future__ import annotations

from recon_cli.metrics.confusion import ConfusionMetric
from recon_cli.metrics.parameters import Classes, checked


class MeanIoU(ConfusionMetric):
    """IoU_c = right_c / (labelled_c + predicted_c - right_c), of all batches together; its mean over the classes.

    A class that is neither labelled nor predicted anywhere is left out of the mean.

    :param classes: how many there are; labels are 0 to classes - 1.
    :param ignore: the label of what is not counted. If it is one of the classes, that class is left out of the mean.
    """

    @checked
    def __init__(self, classes: Classes, ignore: int | None = -1) -> None:
        super().__init__(classes, ignore)

    def compute(self) -> float:
        """The mean, from 0 to 1."""
        right, labelled, predicted = self._class_counts()
        return self._mean_over_classes(right, labelled + predicted - right)
