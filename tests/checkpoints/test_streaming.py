"""Streaming: whatever overlaps, every run gets its own bytes, each extent is read once, and sums are checked."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.checkpoints.extents import PIECE_BYTES, Extent, FileExtent, Ring
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.memory_source import TensorExtent
from recon_cli.checkpoints.streaming import FilePlace, Run, stream
from recon_cli.errors import ReconError


class Counted(Extent):
    """Bytes in memory in small pieces, and how often they were read."""

    name = "some bytes"

    def __init__(self, data: bytes, piece: int, crc: int | None = None) -> None:
        self.bytes = len(data)
        self.crc = crc
        self.times = 0
        self._data = data
        self._piece = piece

    def pieces(self, ring: Ring) -> Iterator[memoryview]:
        self.times += 1
        for start in range(0, self.bytes, self._piece):
            yield memoryview(self._data)[start : start + self._piece]


@st.composite
def requests(draw):
    data = draw(st.binary(max_size=60))
    runs = draw(
        st.lists(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)), st.integers(0, 3)), max_size=6)
    )
    return data, draw(st.integers(1, 70)), [(min(a, b), max(a, b), places) for a, b, places in runs]


@given(requests())
def test_runs_that_overlap_each_get_their_bytes_from_one_reading(tmp_path_factory, request_):
    data, piece, wanted = request_
    extent = Counted(data, piece, zlib.crc32(data))
    path = tmp_path_factory.mktemp("streams") / "out"
    with path.open("wb") as file:
        runs, expected, end = [], b"", 0
        for begin, stop, places in wanted:
            goals = []
            for _ in range(places):
                goals.append(FilePlace(file.fileno(), end))
                expected += data[begin:stop]
                end += stop - begin
            runs.append(Run(extent, begin, stop - begin, goals, crc=True))
        written: list[int] = []
        sums = stream(runs, written.append)
    assert path.read_bytes() == expected
    assert sum(written) == len(expected)
    assert extent.times == (1 if runs else 0)
    for (begin, stop, _), found in zip(wanted, sums, strict=True):
        assert found.digest == "blake3:" + blake3(data[begin:stop]).hexdigest()
        assert found.crc == zlib.crc32(data[begin:stop])


def test_long_files_are_served_piece_by_piece_in_order(tmp_path):
    blocks = [os.urandom(size) for size in (3 * PIECE_BYTES + 17, 5, 9 * PIECE_BYTES, 40_000)]
    (tmp_path / "in").write_bytes(b"".join(blocks))
    source = InputFile(tmp_path / "in")
    with (tmp_path / "out").open("wb") as file:
        runs, offset = [], 0
        for block in blocks:
            extent = FileExtent(source, offset, len(block), crc=zlib.crc32(block), name="record")
            places = [FilePlace(file.fileno(), offset), FilePlace(file.fileno(), offset + sum(map(len, blocks)))]
            runs.append(Run(extent, 0, len(block), places))
            offset += len(block)
        sums = stream(list(reversed(runs)))
    source.close()
    assert (tmp_path / "out").read_bytes() == 2 * b"".join(blocks)
    assert [found.digest for found in reversed(sums)] == ["blake3:" + blake3(b).hexdigest() for b in blocks]


def test_an_extent_with_another_checksum_than_stated_is_damaged_even_if_only_a_part_is_wanted():
    extent = Counted(b"some weights", 5, crc=1)
    with pytest.raises(ReconError, match="some bytes is damaged"):
        stream([Run(extent, 0, 2)])


def test_a_file_that_ends_early_is_an_error(tmp_path):
    (tmp_path / "in").write_bytes(b"12345678")
    source = InputFile(tmp_path / "in")
    (tmp_path / "in").write_bytes(b"1234")
    with pytest.raises(ReconError, match="became shorter"):
        stream([Run(FileExtent(source, 0, 8), 0, 8)])
    with pytest.raises(ReconError, match="was changed while it was read"):
        source.check_unchanged()
    source.close()


def test_the_bytes_of_a_tensor_that_is_not_row_major_stay_when_its_last_piece_was_taken():
    value = torch.arange(300 * 200, dtype=torch.float32).reshape(200, 300).t()
    (piece,) = TensorExtent(value, "a tensor").pieces(Ring())
    # What is freed is given out again for the same size.
    _others = [torch.zeros(value.shape) for _ in range(8)]
    assert bytes(piece) == value.contiguous().numpy().tobytes()
