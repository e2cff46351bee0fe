"""From Gram matrices to the norms of task gradients, and to the cosines and similarities of task pairs."""

from __future__ import annotations

import torch


def cosines(grams: torch.Tensor) -> torch.Tensor:
    """The cosines of all task pairs: cos_ij = G_ij / sqrt(G_ii G_jj), and 0 where either norm is 0.

    :param grams: [..., T, T].
    :returns: float64, [..., T (T - 1) / 2], in [-1, 1], pairs i < j in the order (0, 1), (0, 2), ...; NaN where a Gram
        matrix is not finite.
    """
    norms = gradient_norms(grams)
    # A finite product needs finite factors, so each norm divides by itself rather than their product.
    scaled = grams / norms.unsqueeze(-1) / norms.unsqueeze(-2)
    zero, finite = norms == 0, norms.isfinite()
    is_zero = zero.unsqueeze(-1) | zero.unsqueeze(-2)
    is_finite = finite.unsqueeze(-1) & finite.unsqueeze(-2)
    scaled = scaled.masked_fill(is_zero & is_finite, 0.0).masked_fill(~is_finite, torch.nan)
    i, j = pair_indices(grams.shape[-1])
    return scaled[..., i, j].clamp(-1.0, 1.0)


def gradient_norms(grams: torch.Tensor) -> torch.Tensor:
    """The norms of the task gradients: sqrt(G_ii).

    A Gram matrix holds squares: in float64 a norm below 1e-154 loses digits, one below 1e-162 is 0, and one above 1e154
    is infinite.

    :param grams: [..., T, T].
    :returns: [..., T], of the same type.
    """
    return grams.diagonal(dim1=-2, dim2=-1).sqrt()


def magnitude_similarities(norms: torch.Tensor) -> torch.Tensor:
    """The magnitude similarities of all task pairs: 2 |g_i| |g_j| / (|g_i|^2 + |g_j|^2).

    They are 1 where the norms are equal, two norms of 0 among them, and 0 where only one norm is 0.

    :param norms: [..., T].
    :returns: [..., T (T - 1) / 2], in [0, 1], in the order of `pair_indices`; NaN or of no meaning where a norm is not
        finite.
    """
    i, j = pair_indices(norms.shape[-1])
    one, two = norms[..., i], norms[..., j]
    larger = torch.maximum(one, two)
    # The ratio of the norms neither overflows nor vanishes as their squares would.
    ratio = (torch.minimum(one, two) / larger).masked_fill(larger == 0, 1.0)
    return 2 * ratio / (1 + ratio.square())


def pair_indices(tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second task of every pair i < j."""
    i, j = torch.triu_indices(tasks, tasks, offset=1)
    return i, j
