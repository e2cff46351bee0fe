"""Losses of the papers' dense tasks, for a config: `loss: recon_cli.losses:depth_l1`.

Each is a mean over the pixels that have a label. Where a batch has none, it is 0, and so is its gradient.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from recon_cli.errors import ReconError


def cross_entropy(output: torch.Tensor, label: torch.Tensor, *, ignore_index: int = -100) -> torch.Tensor:
    """PyTorch's cross entropy, which is NaN where nothing has a class; here it is 0.

    :param output: logits, [B, classes, ...].
    :param label: classes in any type, as floating-point attributes are, [B, ...].
    :param ignore_index: the class of pixels that have none.
    """
    total = F.cross_entropy(output, label.long(), ignore_index=ignore_index, reduction="sum")
    return total / (label != ignore_index).sum().clamp(min=1)


def depth_l1(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """mean |output - label| over the pixels whose label is not 0.

    :param output: [B, 1, H, W].
    :param label: depth or inverse depth, [B, 1, H, W]; 0 where it is not known.
    :raises ReconError: if their shapes differ.
    """
    _check_shapes(output, label)
    return _mean((output - label).abs(), label != 0)


def normal_dot(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """mean (1 - <output, label>) over the pixels whose label is not (0, 0, 0), as in MTAN (Liu et al., 2019).

    :param output: [B, 3, H, W], of length 1: the network brings normals to that length, as the published ones do.
    :param label: normals of length 1, [B, 3, H, W]; all 0 where they are not known.
    :raises ReconError: if their shapes differ.
    """
    _check_shapes(output, label)
    return _mean(1 - (output * label).sum(1), label.any(1))


def normal_l1(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """mean |output / ||output|| - label|_1 over the pixels whose label is not (0, 0, 0), as on PASCAL-Context.

    :param output: normals of any length, [B, 3, H, W].
    :param label: normals of length 1, [B, 3, H, W]; all 0 where they are not known.
    :raises ReconError: if their shapes differ.
    """
    _check_shapes(output, label)
    return _mean((F.normalize(output, dim=1) - label).abs().sum(1), label.any(1))


def balanced_binary_cross_entropy(
    output: torch.Tensor, label: torch.Tensor, *, ignore_index: int = 255, positive_weight: float | None = None
) -> torch.Tensor:
    """mean w y log(1 / p) + (1 - w) (1 - y) log(1 / (1 - p)), where p = sigmoid(output), as in HED (Xie and Tu, 2015).

    :param output: logits, [B, 1, H, W].
    :param label: y, 0 or 1, [B, 1, H, W].
    :param ignore_index: the label of pixels that have none.
    :param positive_weight: w; by default the batch's share of pixels with y = 0. On edges 0.95 is used.
    :raises ReconError: if their shapes differ.
    """
    _check_shapes(output, label)
    known = label != ignore_index
    weight = _mean((label == 0).to(output.dtype), known) if positive_weight is None else positive_weight
    target = torch.where(known, label, 0).to(output.dtype)
    weights = weight * target + (1 - weight) * (1 - target)
    return _mean(weights * F.binary_cross_entropy_with_logits(output, target, reduction="none"), known)


def _mean(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The mean over some of the elements; 0 if there are none."""
    return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)


def _check_shapes(output: torch.Tensor, label: torch.Tensor) -> None:
    # They would be broadcast to pairs of images that do not belong together.
    if output.shape != label.shape:
        raise ReconError(f"the output is of shape {tuple(output.shape)}, but its label of {tuple(label.shape)}")
