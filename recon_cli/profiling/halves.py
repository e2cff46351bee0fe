"""Counting on halves of batches: pairs of task gradients with and without samples in common."""

from __future__ import annotations

import torch

from recon_cli.profiling.cosines import cosines, gradient_norms, pair_indices
from recon_cli.profiling.windows import Counts

ON_HALVES = ("half_pairs", "same", "cross")
"""The names of what is counted."""


def nothing_on_halves(layers: int, severities: int) -> Counts:
    """Nothing counted yet."""
    shapes = ((layers,), (layers, severities), (layers, severities))
    return {name: torch.zeros(shape, dtype=torch.int64) for name, shape in zip(ON_HALVES, shapes, strict=True)}


def count_on_halves(grams: torch.Tensor, reached: torch.Tensor, severities: torch.Tensor) -> Counts:
    """Count one iteration: of tasks i and j and halves a and b, the pairs (i_a, j_a) and (i_b, j_b), which have the
    samples in common, and the pairs (i_a, j_b) and (i_b, j_a), which have none.

    They are counted where both tasks reach the layer from both halves and all four gradients are finite, so that there
    are as many of one kind as of the other.

    :param grams: float64, [L, 2T, 2T], on the CPU: the tasks on the first half, then on the second one.
    :param reached: bool, [L, 2T].
    :param severities: [S].
    :returns: the pairs of either kind, [L], and those of each with a cosine strictly below each severity, [L, S].
    """
    tasks = grams.shape[-1] // 2
    known = (reached & gradient_norms(grams).isfinite()).view(-1, 2, tasks).all(1)
    first, second = pair_indices(2 * tasks)
    one, other = first % tasks, second % tasks
    counted = known[:, one] & known[:, other] & (one != other)
    below = (cosines(grams).unsqueeze(-1) < severities) & counted.unsqueeze(-1)
    same = (first < tasks) == (second < tasks)
    found = (counted[:, same].sum(1), below[:, same].sum(1), below[:, ~same].sum(1))
    return dict(zip(ON_HALVES, found, strict=True))
