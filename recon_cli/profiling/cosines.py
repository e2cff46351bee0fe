"""From Gram matrices to the cosines of task pairs."""

from __future__ import annotations

import torch


def cosines(grams: torch.Tensor) -> torch.Tensor:
    """The cosines of all task pairs: cos_ij = G_ij / sqrt(G_ii G_jj), and 0 where either norm is 0.

    :param grams: [..., T, T].
    :returns: float64, [..., T (T - 1) / 2], in [-1, 1], pairs i < j in the order (0, 1), (0, 2), ...; NaN where a Gram
        matrix is not finite.
    """
    norms = grams.diagonal(dim1=-2, dim2=-1).sqrt()
    # A finite product needs finite factors, so each norm divides by itself rather than their product.
    scaled = grams / norms.unsqueeze(-1) / norms.unsqueeze(-2)
    zero, finite = norms == 0, norms.isfinite()
    is_zero = zero.unsqueeze(-1) | zero.unsqueeze(-2)
    is_finite = finite.unsqueeze(-1) & finite.unsqueeze(-2)
    scaled = scaled.masked_fill(is_zero & is_finite, 0.0).masked_fill(~is_finite, torch.nan)
    i, j = pair_indices(grams.shape[-1])
    return scaled[..., i, j].clamp(-1.0, 1.0)


def pair_indices(tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second task of every pair i < j."""
    i, j = torch.triu_indices(tasks, tasks, offset=1)
    return i, j
