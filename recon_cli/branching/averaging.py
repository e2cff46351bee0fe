"""The mean of a tensor's branches, computed while it is written, from a piece of each at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from recon_cli.checkpoints.elements import TYPES, elements
from recon_cli.checkpoints.extents import Extent, Ring
from recon_cli.checkpoints.tensors import StoredTensor


class MeanExtent(Extent):
    """The mean of numbers, in float64 and rounded to their type; of whole numbers, which are counts, the largest.

    :param branches: tensors of one type and shape.
    """

    def __init__(self, branches: Sequence[StoredTensor]) -> None:
        self._branches = branches
        self._kind = TYPES[branches[0].dtype]
        self.bytes = branches[0].bytes
        self.name = branches[0].extent.name

    def pieces(self, ring: Ring) -> Iterator[memoryview]:  # noqa: ARG002 - every branch is read into its own
        """The bytes of the mean."""
        for parts in zip(*(elements(branch) for branch in self._branches), strict=True):
            merged = bytearray(parts[0].nbytes)
            torch.frombuffer(merged, dtype=self._kind).copy_(_merge(parts))
            yield memoryview(merged)


def mean(branches: Sequence[StoredTensor]) -> StoredTensor:
    """The mean of a tensor's branches; none of it is computed yet."""
    return replace(branches[0], extent=MeanExtent(branches), begin=0)


def _merge(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor of several; where all have one value, that value, which their mean would round."""
    if not parts[0].is_floating_point() and not parts[0].is_complex():
        return torch.stack(list(parts)).amax(0)
    wide = torch.stack([part.to(torch.complex128 if part.is_complex() else torch.float64) for part in parts])
    return torch.where((wide == wide[0]).all(0), wide[0], wide.mean(0))
