"""Runs of bytes that tensors are made of, read in pieces that suit the processor's caches."""

from __future__ import annotations

import mmap
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from recon_cli.checkpoints.inputs import InputFile
from recon_cli.errors import ReconError, quoted

PIECE_BYTES = 1 << 20
"""Larger pieces fall out of the caches between reading and writing, smaller ones cost more calls."""

RING = 4
"""Pieces that may be in use at a time: as far as reading may be ahead of what is computed over the bytes.

With more of them, a piece has left the caches when its buffer is used again.
"""


class Ring:
    """The buffers that pieces are read into, used in turn; they are set aside when they are first needed."""

    def __init__(self) -> None:
        self._buffers: list[memoryview] = []
        self._next = 0

    def take(self) -> memoryview:
        """The buffer that was taken longest ago."""
        if len(self._buffers) < RING:
            self._buffers.append(memoryview(mmap.mmap(-1, PIECE_BYTES)))
            return self._buffers[-1]
        self._next += 1
        return self._buffers[(self._next - 1) % RING]


class Extent(ABC):
    """A run of bytes.

    :ivar bytes: how many.
    :ivar name: what messages call it.
    :ivar crc: the CRC-32 that its file states for it, if it does.
    """

    bytes: int
    name: str
    crc: int | None = None

    @property
    def base(self) -> Extent:
        """The run in the file that its bytes come from; itself if they lie there as they are."""
        return self

    @abstractmethod
    def pieces(self, ring: Ring) -> Iterator[memoryview]:
        """The bytes in order, in pieces of at most `PIECE_BYTES`.

        A piece stays as it is until `RING` - 1 more have been taken.
        """

    def checked_pieces(self, ring: Ring) -> Iterator[memoryview]:
        """The same, and at their end the sum that the file states is compared with theirs.

        :raises ReconError: if they differ.
        """
        crc = 0
        for piece in self.pieces(ring):
            if self.crc is not None:
                crc = zlib.crc32(piece, crc)
            yield piece
        self.check_crc(crc)

    def check_crc(self, found: int) -> None:
        """Compare the sum that the file states with the sum of the bytes.

        :raises ReconError: if they differ.
        """
        if self.crc is not None and found != self.crc:
            raise ReconError(
                f"{self.name} is damaged: its bytes have another checksum than the file states",
                "copy or write the file anew",
            )


class FileExtent(Extent):
    """A range of an open file."""

    def __init__(self, file: InputFile, offset: int, bytes: int, *, crc: int | None = None, name: str = "") -> None:
        self.file = file
        self.offset = offset
        self.bytes = bytes
        self.crc = crc
        self._name = name

    @property
    def name(self) -> str:  # type: ignore[override]
        """The record's name in its file, or the file's."""
        return f"{quoted(self._name)} of {quoted(self.file.path)}" if self._name else quoted(self.file.path)

    def pieces(self, ring: Ring) -> Iterator[memoryview]:
        """The bytes in order."""
        offset, left = self.offset, self.bytes
        while left:
            buffer = ring.take()[: min(left, PIECE_BYTES)]
            read = self.file.read_into(buffer, offset)
            yield buffer[:read]
            offset += read
            left -= read


class ConcatenatedExtent(Extent):
    """Several extents, one after the other; the sum that is stated for each of them is checked.

    :param parts: the extents.
    :param name: what messages call them together.
    """

    def __init__(self, parts: Sequence[Extent], name: str) -> None:
        self._parts = tuple(parts)
        self.name = name
        self.bytes = sum(part.bytes for part in parts)

    def pieces(self, ring: Ring) -> Iterator[memoryview]:
        """The bytes of all of them in order."""
        for part in self._parts:
            yield from part.checked_pieces(ring)
