"""How good a network is at a task."""

from __future__ import annotations

import torch

from recon_cli.errors import ReconError


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
    if scores.isnan().any():
        raise ReconError("the scores hold NaN, which has no place among them")
    positive = labels == 1
    if not (positive | (labels == 0)).all():
        raise ReconError("the labels hold something else than 0 and 1")
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
