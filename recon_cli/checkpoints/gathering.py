"""Tensors whose elements do not lie row-major in one place: each is gathered in memory, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from recon_cli.checkpoints.extents import PIECE_BYTES, Extent, Ring

if TYPE_CHECKING:
    import torch


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
    :param itemsize: bytes of an element: 1, 2, 4, 8 or 16.
    """

    def __init__(self, base: Extent, begin: int, shape: Sequence[int], strides: Sequence[int], itemsize: int) -> None:
        self._base = base
        self._begin = begin
        self._shape = tuple(shape)
        self._strides = tuple(strides)
        self._itemsize = itemsize
        self.name = base.name
        self.bytes = math.prod(shape) * itemsize

    @property
    def base(self) -> Extent:
        """Where its elements lie."""
        return self._base

    def pieces(self, ring: Ring) -> Iterator[memoryview]:  # noqa: ARG002 - pieces that are still in use may lie in it
        """The elements' bytes."""
        import torch

        if self.bytes == 0:
            return
        kind = _carrier(self._itemsize)
        loaded = _load(self._base, self._begin, span_of(self._shape, self._strides) * self._itemsize)
        source = torch.frombuffer(loaded, dtype=kind).as_strided(self._shape, self._strides)
        gathered = bytearray(self.bytes)
        torch.frombuffer(gathered, dtype=kind).view(self._shape).copy_(source)
        yield from _in_pieces(gathered)


class Block(NamedTuple):
    """A rectangular part of a tensor.

    :ivar extent: its elements, row-major, and nothing else.
    :ivar offsets: its first element's place in the tensor.
    :ivar sizes: its extent along each dimension.
    """

    extent: Extent
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class AssembledExtent(Extent):
    """The elements of a tensor that lies in blocks, in row-major order.

    :param blocks: they tile the tensor.
    :param itemsize: bytes of an element: 1, 2, 4, 8 or 16.
    :param name: what messages call it.
    """

    def __init__(self, blocks: Sequence[Block], shape: Sequence[int], itemsize: int, name: str) -> None:
        self._blocks = tuple(blocks)
        self._shape = tuple(shape)
        self._itemsize = itemsize
        self.name = name
        self.bytes = math.prod(shape) * itemsize

    def pieces(self, ring: Ring) -> Iterator[memoryview]:  # noqa: ARG002 - pieces that are still in use may lie in it
        """The elements' bytes."""
        import torch

        kind = _carrier(self._itemsize)
        assembled = bytearray(self.bytes)
        tensor = torch.frombuffer(assembled, dtype=kind).view(self._shape)
        for block in self._blocks:
            loaded = _load(block.extent, 0, block.extent.bytes)
            place = tuple(slice(begin, begin + size) for begin, size in zip(block.offsets, block.sizes, strict=True))
            tensor[place] = torch.frombuffer(loaded, dtype=kind).view(block.sizes)
        yield from _in_pieces(assembled)


def _load(extent: Extent, begin: int, length: int) -> bytearray:
    """A range of an extent."""
    loaded = bytearray(length)
    at = -begin
    for piece in extent.checked_pieces(Ring()):
        lower, upper = max(at, 0), min(at + len(piece), length)
        if lower < upper:
            loaded[lower:upper] = piece[lower - at : upper - at]
        at += len(piece)
    return loaded


def _carrier(itemsize: int) -> torch.dtype:
    """A type of that size; which one makes no difference to bytes that are moved."""
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}[itemsize]


def _in_pieces(whole: bytearray) -> Iterator[memoryview]:
    memory = memoryview(whole)
    for start in range(0, len(memory), PIECE_BYTES):
        yield memory[start : start + PIECE_BYTES]
