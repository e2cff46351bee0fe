"""The elements of stored tensors, as flat tensors of torch, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recon_cli.checkpoints.extents import FileExtent, Ring
from recon_cli.checkpoints.tensors import DTYPE_BITS, TORCH_DTYPES, StoredTensor

TYPES = {name: getattr(torch, kind) for kind, name in TORCH_DTYPES.items() if hasattr(torch, kind)}
"""The types that torch has, by their names in checkpoints."""

PIECE_ELEMENTS = 1 << 15
"""The most elements that torch computes with in one thread; several would wait for each other longer than they work."""


def elements(tensor: StoredTensor) -> Iterator[torch.Tensor]:
    """The elements of a tensor in row-major order, `PIECE_ELEMENTS` at a time, in memory of their own.

    :param tensor: of one of `TYPES`.
    """
    left = tensor.bytes
    size = PIECE_ELEMENTS * DTYPE_BITS[tensor.dtype] // 8
    part = memoryview(bytearray(min(size, left)))
    filled = 0
    for piece in _pieces(tensor, Ring()):
        at = 0
        while at < len(piece):
            taken = min(len(part) - filled, len(piece) - at)
            part[filled : filled + taken] = piece[at : at + taken]
            at += taken
            filled += taken
            if filled == len(part):
                yield torch.frombuffer(part, dtype=TYPES[tensor.dtype])
                left -= filled
                part = memoryview(bytearray(min(size, left)))
                filled = 0


def _pieces(tensor: StoredTensor, ring: Ring) -> Iterator[memoryview]:
    """The bytes of a tensor alone."""
    extent = tensor.extent
    if isinstance(extent, FileExtent):
        # Many tensors may be parts of one extent, which is not to be read anew for each.
        yield from FileExtent(extent.file, extent.offset + tensor.begin, tensor.bytes).pieces(ring)
        return
    at = -tensor.begin
    for piece in extent.pieces(ring):
        lower, upper = max(at, 0), min(at + len(piece), tensor.bytes)
        if lower < upper:
            yield piece[lower - at : upper - at]
        at += len(piece)
