"""Tensors whose elements do not lie row-major in their file: each is gathered in memory, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from recon_cli.checkpoints.extents import PIECE_BYTES, Extent, Ring


def is_row_major(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor's elements lie one after the other in row-major order.

    :param strides: in elements; that of a dimension of size 1 does not matter.
    """
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1:
            if stride != expected:
                return 0 in shape
            expected *= size
    return True


def fills_a_range(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor's elements fill a range, each once, in whichever order of its dimensions."""
    ordered = sorted(zip(strides, shape, strict=True), reverse=True)
    return is_row_major([size for _, size in ordered], [stride for stride, _ in ordered])


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor whose elements lie row-major, in elements."""
    return tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))


def span_of(shape: Sequence[int], strides: Sequence[int]) -> int:
    """The elements from the first to the last that a strided tensor reaches; 0 if it has none."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


class GatheredExtent(Extent):
    """A strided tensor's elements in row-major order.

    :param base: where its elements lie.
    :param begin: the byte of the first of them.
    :param strides: in elements.
    :param itemsize: bytes of an element: 1, 2, 4 or 8.
    """

    def __init__(self, base: Extent, begin: int, shape: Sequence[int], strides: Sequence[int], itemsize: int) -> None:
        self._base = base
        self._begin = begin
        self._shape = tuple(shape)
        self._strides = tuple(strides)
        self._itemsize = itemsize
        self.name = base.name
        self.bytes = math.prod(shape) * itemsize

    def pieces(self, ring: Ring) -> Iterator[memoryview]:
        """The elements' bytes."""
        import torch

        if self.bytes == 0:
            return
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[self._itemsize]
        source = torch.frombuffer(self._load(ring), dtype=kind).as_strided(self._shape, self._strides)
        gathered = bytearray(self.bytes)
        torch.frombuffer(gathered, dtype=kind).view(self._shape).copy_(source)
        memory = memoryview(gathered)
        for start in range(0, self.bytes, PIECE_BYTES):
            yield memory[start : start + PIECE_BYTES]

    def _load(self, ring: Ring) -> bytearray:
        """The part of the base that the elements lie in."""
        loaded = bytearray(span_of(self._shape, self._strides) * self._itemsize)
        at = -self._begin
        for piece in self._base.checked_pieces(ring):
            lower, upper = max(at, 0), min(at + len(piece), len(loaded))
            if lower < upper:
                loaded[lower:upper] = piece[lower - at : upper - at]
            at += len(piece)
        return loaded
