"""Moving bytes: every extent is read once, and each of its pieces goes to all places where it is wanted.

Digests and checksums are computed by another thread meanwhile. Both let go of Python's lock, so on two cores neither
copying nor computing waits much for the other.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from blake3 import blake3

from recon_cli.artifacts.digests import new_tensor_digest, tensor_digest_text
from recon_cli.artifacts.publish import write_all
from recon_cli.checkpoints.extents import PIECE_BYTES, RING, Extent, FileExtent, Ring
from recon_cli.checkpoints.tensors import StoredTensor

Advance = Callable[[int], None]
"""Told, piece by piece, how many bytes have been written."""

_BEGIN_WRITING = 1 << 23
"""The bytes of one place that the system is asked to write together."""

_SMALL = 1 << 15
"""Below this, handing bytes to another thread costs more than to compute their sums."""


class Place(ABC):
    """Where bytes are written."""

    @abstractmethod
    def write(self, data: memoryview, done: int, *, last: bool) -> None:
        """Write the next bytes.

        :param done: how many came before them.
        :param last: whether none come after them.
        """


class FilePlace(Place):
    """An offset in an open file.

    The system is asked early to begin writing to the disk, so that syncing the file at the end takes little time.
    """

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._begun = 0

    def write(self, data: memoryview, done: int, *, last: bool) -> None:
        """Write the bytes into the file."""
        write_all(self._descriptor, data, self._offset + done)
        if done + len(data) - self._begun >= (PIECE_BYTES if last else _BEGIN_WRITING):
            self._begin_writing(done + len(data))

    def _begin_writing(self, done: int) -> None:
        if hasattr(os, "posix_fadvise"):
            # "Will not be needed" starts the writing of pages that have not been written; those stay in memory.
            offset, length = self._offset + self._begun, done - self._begun
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_DONTNEED)
        self._begun = done


class MemoryPlace(Place):
    """A buffer that holds all the bytes."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer

    def write(self, data: memoryview, done: int, *, last: bool) -> None:  # noqa: ARG002 - it makes no difference
        """Copy the bytes into the buffer."""
        self._buffer[done : done + len(data)] = data


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of an extent that are wanted together.

    :ivar begin: where they begin in the extent.
    :ivar places: where they are written.
    :ivar digest: whether their digest is wanted.
    :ivar crc: whether their CRC-32 is wanted.
    """

    extent: Extent
    begin: int
    bytes: int
    places: Sequence[Place] = ()
    digest: bool = True
    crc: bool = False


@dataclass(frozen=True, slots=True)
class Sums:
    """What was computed over the bytes of a run; None where it was not wanted."""

    digest: str | None
    crc: int | None


def stream(runs: Sequence[Run], advance: Advance | None = None) -> list[Sums]:
    """Read the extents of some runs, in the order in which they lie, and serve every run.

    :param advance: told what has been written.
    :returns: the sums of every run, in the order of `runs`.
    :raises ReconError: if a file ends early, or an extent's bytes have another checksum than its file states.
    """
    states = [_State(run) for run in runs]
    by_extent: dict[Extent, list[_State]] = {}
    for state in states:
        by_extent.setdefault(state.run.extent, []).append(state)
    ring = Ring()
    with _Jobs() as jobs:
        for extent in sorted(by_extent, key=_position):
            wanted = sorted(by_extent[extent], key=lambda state: state.run.begin)
            _serve(extent, wanted, ring, jobs, advance)
    return [state.sums() for state in states]


def _position(extent: Extent) -> tuple[str, int]:
    """Where an extent lies; those of one file are read in its order."""
    return (str(extent.file.path), extent.offset) if isinstance(extent, FileExtent) else ("", 0)


def digests_of(tensors: Iterable[StoredTensor]) -> dict[str, str]:
    """The digest of every tensor by its name; all of their bytes are read.

    :raises ReconError: as :func:`stream` does.
    """
    tensors = list(tensors)
    sums = stream([Run(tensor.extent, tensor.begin, tensor.bytes) for tensor in tensors])
    return {tensor.key: found.digest or "" for tensor, found in zip(tensors, sums, strict=True)}


class _State:
    """A run and the sums over the part of it that has been read."""

    __slots__ = ("_crc", "_digest", "_left", "_text", "run")

    def __init__(self, run: Run) -> None:
        self.run = run
        self._left = run.bytes
        # Made when it is needed and dropped when it is done: it takes two kilobytes, and there may be very many runs.
        self._digest: blake3 | None = None
        self._text: str | None = None
        self._crc = 0

    def add(self, piece: memoryview) -> None:
        self._left -= len(piece)
        if self.run.digest:
            self._digest = self._digest or new_tensor_digest()
            self._digest.update(piece)
            if not self._left:
                self._text, self._digest = tensor_digest_text(self._digest), None
        if self.run.crc:
            self._crc = zlib.crc32(piece, self._crc)

    def sums(self) -> Sums:
        if self.run.digest and not self.run.bytes:
            self.add(memoryview(b""))
        return Sums(digest=self._text, crc=self._crc if self.run.crc else None)


_Parts: TypeAlias = "Sequence[tuple[_State, memoryview]]"


class _Jobs:
    """Computations over pieces, done by another thread in order."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        # One for each piece that is in use.
        self._pending: deque[Future[None]] = deque()

    def add(self, parts: _Parts) -> None:
        while self._pending and self._pending[0].done():
            self._take()
        if not self._pending and sum(len(part) for _, part in parts) < _SMALL:
            _add(parts)
            return
        self._pending.append(self._pool.submit(_add, parts))

    def make_room(self) -> None:
        """Wait until the next piece may take the place of the oldest one."""
        while len(self._pending) >= RING:
            self._take()

    def finish(self) -> None:
        """Wait until all is computed."""
        while self._pending:
            self._take()

    def _take(self) -> None:
        self._pending.popleft().result()

    def __enter__(self) -> _Jobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._pool.shutdown()


def _serve(extent: Extent, wanted: Sequence[_State], ring: Ring, jobs: _Jobs, advance: Advance | None) -> None:
    crc = _State(Run(extent, 0, extent.bytes, digest=False, crc=extent.crc is not None))
    begin = first = 0
    for piece in _pieces(extent, ring, jobs):
        end = begin + len(piece)
        while first < len(wanted) and _end(wanted[first]) <= begin:
            first += 1
        parts = [(crc, piece)] if crc.run.crc else []
        for at in range(first, len(wanted)):
            state = wanted[at]
            if state.run.begin >= end:
                break
            lower, upper = max(state.run.begin, begin), min(_end(state), end)
            if lower < upper:
                parts.append((state, piece[lower - begin : upper - begin]))
        jobs.add(parts)
        for state, part in parts:
            if not state.run.places:
                continue
            done = max(begin - state.run.begin, 0)
            for place in state.run.places:
                place.write(part, done, last=done + len(part) == state.run.bytes)
                if advance is not None:
                    advance(len(part))
        begin = end
    if crc.run.crc:
        jobs.finish()
        extent.check_crc(crc.sums().crc or 0)


def _end(state: _State) -> int:
    return state.run.begin + state.run.bytes


def _pieces(extent: Extent, ring: Ring, jobs: _Jobs) -> Iterator[memoryview]:
    pieces = extent.pieces(ring)
    while True:
        jobs.make_room()
        piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _add(parts: _Parts) -> None:
    for state, piece in parts:
        state.add(piece)
