"""Memory for rows of gradients that is used again for the next layers and the next step."""

from __future__ import annotations

from math import prod

import torch

_ALIGNMENT = 64


class RowMemory:
    """Hands out uninitialised tensors from blocks that are kept.

    Fresh memory costs a page fault every 4 KiB, which on a CPU is a good part of the time of a copy.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        self._used: dict[tuple[torch.dtype, torch.device], int] = {}

    def take(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """A tensor of this shape, of the type and on the device of another; valid until `reset`."""
        kind = (like.dtype, like.device)
        size = prod(shape)
        blocks = self._blocks.setdefault(kind, [])
        start = self._used.get(kind, 0)
        if not blocks or start + size > blocks[-1].numel():
            blocks.append(torch.empty(size, dtype=like.dtype, device=like.device))
            start = 0
        self._used[kind] = -(-(start + size) // _ALIGNMENT) * _ALIGNMENT
        return blocks[-1][start : start + size].view(shape)

    def reset(self) -> None:
        """Take everything back. What did not fit into one block gets one that it fits into."""
        for kind, blocks in self._blocks.items():
            if len(blocks) > 1:
                size = sum(block.numel() + _ALIGNMENT for block in blocks)
                blocks.clear()
                blocks.append(torch.empty(size, dtype=kind[0], device=kind[1]))
            self._used[kind] = 0
