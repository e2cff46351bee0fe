"""Angles between surface normals, in degrees."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from recon_cli.errors import ReconError
from recon_cli.metrics.inputs import tensors_of_one_shape
from recon_cli.metrics.parameters import checked
from recon_cli.metrics.sums import Mean, SummedMetric, count, histogram

_BINS = 1 << 18
"""Of 180 / 2^18 = 0.00069 degrees each."""


def angles(output: object, label: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The angle between each predicted vector and the labelled one; their lengths do not matter.

    :param output: [N, 3, ...]. A vector of zeros is at 90 degrees to all others.
    :param label: the same shape.
    :returns: [N, ...], degrees in float64, and which of them count: those whose label is finite and not all zero.
    :raises ReconError: if these are not their shapes.
    """
    output, label = tensors_of_one_shape(output, label)
    if output.dim() < 2 or output.shape[1] != 3:
        raise ReconError(f"the output is of shape {tuple(output.shape)}; vectors [N, 3, ...] were expected")
    output, label = output.double(), label.double()
    valid = label.isfinite().all(1) & (label != 0).any(1)
    lengths = torch.linalg.vector_norm(output, dim=1) * torch.linalg.vector_norm(label, dim=1)
    cosines = (output * label).sum(1) / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    return cosines.clamp(-1, 1).acos().rad2deg(), valid


class AngleMean(Mean):
    """The mean angle between predicted and labelled vectors [N, 3, ...] over all pixels of all batches, in degrees.

    Pixels whose label is all zero, or not finite, are left out.
    """

    HIGHER_IS_BETTER = False

    def __init__(self) -> None:
        super().__init__()

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch."""
        self._add_values(*angles(output, label))


class AngleWithin(Mean):
    """The fraction of pixels whose angle is below a bound; pixels as for :class:`AngleMean`.

    :param degrees: the bound.
    """

    HIGHER_IS_BETTER = True

    @checked
    def __init__(self, degrees: Annotated[float, Field(gt=0, le=180)]) -> None:
        super().__init__()
        self.degrees = degrees

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch."""
        found, valid = angles(output, label)
        self._add_values(found < self.degrees, valid)


class AngleMedian(SummedMetric):
    """The median angle over all pixels of all batches, in degrees; pixels as for :class:`AngleMean`.

    It is read off a histogram of 2^18 bins, so that memory does not grow with the pixels, and is less than 0.001 degree
    from the exact one. An angle that is NaN makes it NaN.
    """

    HIGHER_IS_BETTER = False

    def __init__(self) -> None:
        super().__init__(bins=torch.zeros(_BINS, dtype=torch.int64), undefined=count())

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch."""
        found, valid = angles(output, label)
        undefined = valid & found.isnan()
        place = (found * (_BINS / 180)).clamp(0, _BINS - 1).nan_to_num(0).long()
        place = torch.where(valid & ~undefined, place, _BINS)
        self._add(bins=histogram(place, _BINS + 1)[:_BINS], undefined=undefined.sum())

    def compute(self) -> float:
        """The median: with an even number of pixels, the mean of the two in the middle."""
        sums = self.state()
        reached = sums["bins"].cumsum(0)
        number = int(reached[-1])
        if not number or sums["undefined"]:
            return float("nan")
        return (_ranked(sums["bins"], reached, (number - 1) // 2) + _ranked(sums["bins"], reached, number // 2)) / 2


def _ranked(bins: torch.Tensor, reached: torch.Tensor, rank: int) -> float:
    """The angle of a rank, counted from 0, where those of a bin lie evenly spread in it.

    :param reached: the running sum of the bins.
    """
    place = int(torch.searchsorted(reached, rank, right=True))
    within = (rank - int(reached[place] - bins[place]) + 0.5) / int(bins[place])
    return (place + within) * 180 / _BINS
