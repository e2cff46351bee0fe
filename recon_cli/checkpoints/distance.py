"""How far two stored tensors are apart, computed in float64 from a piece of each at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from recon_cli.artifacts.difference import Distance
from recon_cli.checkpoints.elements import elements
from recon_cli.checkpoints.tensors import StoredTensor

_HALF = 32
_LOW = (1 << _HALF) - 1


def distance(a: StoredTensor, b: StoredTensor) -> Distance:
    """How far two tensors of the same shape are apart.

    Elements that are the same bit for bit are equal, NaN or not; those of different types are equal if their values
    are, or if both are NaN. What is neither equal nor finite has no distance, and is counted.

    :param a: of a type that torch has; so `b`.
    """
    a, b = _countable(a), _countable(b)
    norms = _Norm(), _Norm(), _Norm()
    unlike = non_finite = 0
    for x, y in zip(elements(a), elements(b), strict=True):
        wide = _wide(x), _wide(y)
        finite = torch.isfinite(wide[0]), torch.isfinite(wide[1])
        differs = _differs(x, y, *wide)
        measured = differs & finite[0] & finite[1]
        norms[0].add(wide[0], finite[0])
        norms[1].add(wide[1], finite[1])
        norms[2].add(_subtract(x, y, *wide), measured)
        unlike += int(differs.sum())
        non_finite += int((differs & ~measured).sum())
    return Distance(
        norm_a=norms[0].value,
        norm_b=norms[1].value,
        norm=norms[2].value,
        largest=norms[2].largest_value,
        elements=unlike,
        non_finite=non_finite,
    )


class _Norm:
    """The Euclidean norm of numbers that come in pieces, without overflow on the way, and their largest magnitude."""

    def __init__(self) -> None:
        self._norm = 0.0
        self._largest = 0.0

    def add(self, values: torch.Tensor, counted: torch.Tensor) -> None:
        magnitudes = torch.where(counted, values, 0).abs()
        largest = float(magnitudes.max())
        self._largest = max(self._largest, largest)
        if 0 < largest < math.inf:
            self._norm = math.hypot(self._norm, largest * float(torch.linalg.vector_norm(magnitudes / largest)))
        elif largest:
            self._norm = math.inf

    @property
    def value(self) -> float | None:
        return self._norm if math.isfinite(self._norm) else None

    @property
    def largest_value(self) -> float | None:
        return self._largest if math.isfinite(self._largest) else None


def _countable(tensor: StoredTensor) -> StoredTensor:
    # A byte that is stored for a boolean may be any, and torch does not say what it takes others than 0 and 1 for.
    return replace(tensor, dtype="U8") if tensor.dtype == "BOOL" else tensor


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def _differs(x: torch.Tensor, y: torch.Tensor, wide_x: torch.Tensor, wide_y: torch.Tensor) -> torch.Tensor:
    if x.dtype != y.dtype:
        return (wide_x != wide_y) & ~(torch.isnan(wide_x) & torch.isnan(wide_y))
    if x.element_size() > 8:
        return (x.view(torch.int64) != y.view(torch.int64)).view(-1, 2).any(1)
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.view(kind) != y.view(kind)


def _subtract(x: torch.Tensor, y: torch.Tensor, wide_x: torch.Tensor, wide_y: torch.Tensor) -> torch.Tensor:
    if x.dtype != y.dtype or x.dtype not in (torch.int64, torch.uint64):
        return wide_x - wide_y
    # float64 does not hold all integers of 64 bits, but it does hold the differences of their halves.
    high = _high(x) - _high(y)
    low = (x.view(torch.int64) & _LOW) - (y.view(torch.int64) & _LOW)
    return high.double() * 2.0**_HALF + low.double()


def _high(x: torch.Tensor) -> torch.Tensor:
    high = x.view(torch.int64) >> _HALF
    return high & _LOW if x.dtype == torch.uint64 else high
