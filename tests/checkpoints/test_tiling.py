"""Whether blocks tile a tensor: told by their corners, compared with counting every element."""

from __future__ import annotations

import numpy
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.checkpoints.distributed.tiling import MAX_SPLIT_DIMENSIONS, tile


@st.composite
def tilings(draw):
    """A tensor cut again and again, and perhaps one block that is moved, resized, lost or doubled."""
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=3)))
    boxes = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 4)) if shape else 0):
        offsets, sizes = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        at = draw(st.integers(0, len(shape) - 1))
        cut = draw(st.integers(0, sizes[at]))
        for begin, size in ((0, cut), (cut, sizes[at] - cut)):
            if size:
                moved = (*offsets[:at], offsets[at] + begin, *offsets[at + 1 :])
                boxes.append((moved, (*sizes[:at], size, *sizes[at + 1 :])))
    for _ in range(draw(st.integers(0, 2))):
        which = draw(st.integers(0, len(boxes) - 1))
        change = draw(st.sampled_from(["move", "resize", "lose", "double"]))
        offsets, sizes = boxes[which]
        if change == "double":
            boxes.append(boxes[which])
        elif change == "lose" and len(boxes) > 1:
            boxes.pop(which)
        elif shape:
            at = draw(st.integers(0, len(shape) - 1))
            step = draw(st.integers(0, 2))
            if change == "move":
                offsets = (*offsets[:at], offsets[at] + step, *offsets[at + 1 :])
            else:
                sizes = (*sizes[:at], sizes[at] + step, *sizes[at + 1 :])
            boxes[which] = (offsets, sizes)
    return shape, boxes


@given(tilings())
def test_blocks_tile_a_tensor_if_each_element_is_in_one_of_them(tiling):
    shape, boxes = tiling
    counts = numpy.zeros([size + 20 for size in shape], dtype=int)
    for offsets, sizes in boxes:
        counts[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))] += 1
    wanted = numpy.zeros_like(counts)
    wanted[tuple(slice(0, size) for size in shape)] = 1
    assert tile(boxes, shape) == numpy.array_equal(counts, wanted)


def test_no_block_tiles_nothing_but_an_empty_list_of_elements():
    assert tile([((), ())], ())
    assert not tile([], ())
    assert not tile([], (3,))


def test_a_block_of_very_many_dimensions_takes_no_time():
    many = 8 * MAX_SPLIT_DIMENSIONS
    assert tile([((0,) * many, (2,) * many)], (2,) * many)
    assert not tile([((0,) * many, (1,) * many)], (2,) * many)
