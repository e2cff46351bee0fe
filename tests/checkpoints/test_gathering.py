"""Strided tensors: gathered as torch would make them contiguous."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.checkpoints.extents import ConcatenatedExtent, FileExtent, Ring
from recon_cli.checkpoints.gathering import AssembledExtent, Block, GatheredExtent, is_row_major, span_of
from recon_cli.checkpoints.inputs import InputFile

KINDS = [torch.uint8, torch.int16, torch.float32, torch.complex64, torch.complex128]


@st.composite
def views(draw):
    """A view into a storage of random bytes."""
    kind = draw(st.sampled_from(KINDS))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    strides = draw(st.lists(st.integers(0, 6), min_size=len(shape), max_size=len(shape)))
    offset = draw(st.integers(0, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count = offset + span_of(shape, strides) + draw(st.integers(0, 3))
    whole = torch.randint(0, 100, (max(count, 1),), generator=generator).to(kind)
    return whole, whole.as_strided(shape, strides, offset)


@given(views())
def test_gathered_elements_are_those_of_the_contiguous_tensor(tmp_path_factory, whole_and_view):
    whole, view = whole_and_view
    path = tmp_path_factory.mktemp("gather") / "storage"
    path.write_bytes(bytes(whole.view(torch.uint8).tolist()))
    file = InputFile(path)
    size = view.element_size()
    base = FileExtent(file, 0, file.size)
    extent = GatheredExtent(base, view.storage_offset() * size, view.shape, view.stride(), size)
    found = b"".join(bytes(piece) for piece in extent.pieces(Ring()))
    file.close()
    expected = view.clone(memory_format=torch.contiguous_format)
    assert extent.bytes == len(found)
    assert found == (bytes(expected.view(-1).view(torch.uint8).tolist()) if expected.numel() else b"")


@given(views())
def test_row_major_is_what_torch_calls_contiguous(whole_and_view):
    _, view = whole_and_view
    assert is_row_major(view.shape, view.stride()) == view.is_contiguous()


def file_of(path, data: bytes) -> InputFile:
    path.write_bytes(data)
    return InputFile(path)


def test_gathering_leaves_pieces_that_are_still_in_use_alone(tmp_path):
    file = file_of(tmp_path / "x", bytes(range(256)) * (1 << 15))
    ring = Ring()
    first = next(FileExtent(file, 0, 1000).pieces(ring))
    before = bytes(first)
    gathered = GatheredExtent(FileExtent(file, 77, file.size - 77), 0, (2, 3), (1, 2), 4)
    assert len(b"".join(map(bytes, gathered.pieces(ring)))) == 24
    assert bytes(first) == before


def test_a_tensor_in_blocks_is_put_together(tmp_path):
    whole = torch.randn(5, 4, 3, dtype=torch.complex128)
    blocks, data = [], b""
    for rows in (slice(0, 2), slice(2, 5)):
        for columns in (slice(0, 1), slice(1, 4)):
            part = whole[rows, columns].contiguous()
            blocks.append((len(data), (rows.start, columns.start, 0), tuple(part.shape)))
            data += part.numpy().tobytes()
    file = file_of(tmp_path / "x", data)
    extents = [
        Block(FileExtent(file, at, torch.Size(sizes).numel() * 16), offsets, sizes) for at, offsets, sizes in blocks
    ]
    assembled = AssembledExtent(extents, whole.shape, 16, "it")
    assert b"".join(bytes(piece) for piece in assembled.pieces(Ring())) == whole.numpy().tobytes()
    joined = ConcatenatedExtent([block.extent for block in extents], "it")
    assert b"".join(bytes(piece) for piece in joined.pieces(Ring())) == data
