"""Whether rectangular blocks tile a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes."""

MAX_SPLIT_DIMENSIONS = 8
"""No sharding cuts along more; every further one doubles the corners of a block."""


def tile(boxes: Sequence[Box], shape: Sequence[int]) -> bool:
    """Whether boxes fill a tensor without a gap and without an overlap.

    The corners of a box, signed by their parity, are what is left of its indicator function after a difference along
    every dimension. That operator can be undone, so boxes fill the tensor exactly if their signed corners add up to
    the tensor's.

    :param boxes: none of them empty.
    """
    split = [at for at in range(len(shape)) if any(o[at] != 0 or s[at] != shape[at] for o, s in boxes)]
    if len(split) > MAX_SPLIT_DIMENSIONS:
        return False
    corners: Counter[tuple[int, ...]] = Counter()
    for offsets, sizes in boxes:
        _add_corners(corners, [(offsets[at], offsets[at] + sizes[at]) for at in split], 1)
    _add_corners(corners, [(0, shape[at]) for at in split], -1)
    return not any(corners.values())


def _add_corners(corners: Counter[tuple[int, ...]], sides: Sequence[tuple[int, int]], sign: int) -> None:
    for ends in product((0, 1), repeat=len(sides)):
        corner = tuple(side[end] for side, end in zip(sides, ends, strict=True))
        corners[corner] += sign * (-1) ** sum(ends)
