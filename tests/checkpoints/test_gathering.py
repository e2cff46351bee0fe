"""Strided tensors: gathered as torch would make them contiguous."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.checkpoints.extents import FileExtent, Ring
from recon_cli.checkpoints.gathering import GatheredExtent, is_row_major, span_of
from recon_cli.checkpoints.inputs import InputFile

KINDS = [torch.uint8, torch.int16, torch.float32, torch.complex64]


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
