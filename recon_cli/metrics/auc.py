"""The area under the ROC curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from recon_cli.errors import ReconError
from recon_cli.metrics.inputs import tensors_of_one_shape
from recon_cli.metrics.metric import Metric


class AUC(Metric):
    """The exact area under the ROC curve, by :func:`area_under_curve`, of all scores of all batches.

    Outputs are scores, logits as well as probabilities, in the shape of the labels, which are 0 or 1. Every score is
    kept with its label, in 16 bytes on the output's device.
    """

    HIGHER_IS_BETTER = True

    def __init__(self) -> None:
        self._scores: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Keep a batch."""
        scores, labels = tensors_of_one_shape(output, label)
        if scores.device.type == "cpu":
            check_scored(scores, labels)
        self._scores.append(scores.flatten().double())
        self._labels.append(labels.flatten().double())

    def compute(self) -> float:
        """The area, from 0 to 1.

        :raises ReconError: also if all labels are the same.
        """
        state = self.state()
        return area_under_curve(state["scores"], state["labels"]) if len(state["labels"]) else float("nan")

    def state(self) -> dict[str, torch.Tensor]:
        """All scores and labels, each [N] in float64."""
        return {"scores": _joined(self._scores), "labels": _joined(self._labels)}

    def merge(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Have the scores and labels of all ranks."""
        self._scores = [state["scores"] for state in states]
        self._labels = [state["labels"] for state in states]


def area_under_curve(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """The area under the ROC curve: the share of pairs of a positive and a negative that the scores put in order.

    A pair with equal scores counts half. It is counted exactly, from the ranks of the scores.

    :param scores: [N], higher for what is rather positive.
    :param labels: [N], 0 or 1.
    :raises ReconError: if there is no such pair, or scores or labels are something else.
    """
    if scores.dim() != 1 or scores.shape != labels.shape:
        raise ReconError(
            f"the scores are of shape {tuple(scores.shape)} and the labels of shape {tuple(labels.shape)}; "
            f"one score and one label for each of N were expected"
        )
    check_scored(scores, labels)
    positive = labels == 1
    positives = int(positive.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ReconError(
            f"there are {positives} positive and {negatives} negative labels; the area needs one of each at least"
        )
    _, place, ties = torch.unique(scores, return_inverse=True, return_counts=True)
    # Twice the mean rank of those that are tied, which is whole.
    ranks = 2 * ties.cumsum(0) - ties + 1
    wins = int(ranks[place[positive]].sum()) - positives * (positives + 1)
    return wins / (2 * positives * negatives)


def check_scored(scores: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse what has no place on a ROC curve.

    :raises ReconError: if a score is NaN, or a label neither 0 nor 1.
    """
    if scores.isnan().any():
        raise ReconError("the scores hold NaN, which has no place among them")
    if not ((labels == 1) | (labels == 0)).all():
        raise ReconError("the labels hold something else than 0 and 1")


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.cpu() for part in parts]) if parts else torch.zeros(0, dtype=torch.float64)
