"""Gram matrices of task gradients, layer by layer: G_ij = <g_i, g_j>, and the cosines that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recon_cli.profiling.gradients import Gradients

_COLUMNS = 1 << 20


def layer_grams(gradients: Sequence[Gradients], layers: Sequence[Sequence[int]]) -> torch.Tensor:
    """The Gram matrix of every layer.

    :param gradients: for each of T tasks, a gradient or None for each parameter.
    :param layers: for each of L layers, the indices of its parameters.
    :returns: float64, [L, T, T], on the gradients' device. A gradient that is None counts as zero. Products are summed
        in float64 whatever the gradients' precision.
    """
    first = next(g for own in gradients for g in own if g is not None)
    grams = torch.zeros(len(layers), len(gradients), len(gradients), dtype=torch.float64, device=first.device)
    for gram, indices in zip(grams, layers, strict=True):
        for index in indices:
            reached = [task for task, own in enumerate(gradients) if own[index] is not None]
            if not reached:
                continue
            rows = torch.stack([_flat(gradients[task][index]) for task in reached])
            products = _inner_products(rows)
            if len(reached) == len(gradients):
                gram += products
            else:
                at = torch.tensor(reached, device=gram.device)
                gram[at.unsqueeze(1), at] += products
    return grams


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


def _flat(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    # The inner product of complex gradients is that of their real and imaginary parts.
    gradient = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return gradient.reshape(-1)


def _inner_products(rows: torch.Tensor) -> torch.Tensor:
    # In pieces, so that the float64 copy of a large layer stays small.
    parts = (part.double() for part in torch.split(rows, _COLUMNS, dim=1))
    products = [part @ part.T for part in parts]
    return torch.stack(products).sum(0)
