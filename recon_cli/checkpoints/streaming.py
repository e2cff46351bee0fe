"""Moving bytes: every extent is read once, and each of its pieces goes to all places where it is wanted.

Digests and checksums are computed by two other threads meanwhile, those of one run by the same, in order. All let go of
Python's lock, so on two cores neither copying nor computing waits much for the other.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import TypeAlias

from recon_cli.artifacts.digests import digest_text, new_digest
from recon_cli.artifacts.publish import write_all
from recon_cli.checkpoints.extents import PIECE_BYTES, RING, Extent, FileExtent, Ring
from recon_cli.checkpoints.tensors import StoredTensor

Advance = Callable[[int], None]
"""Told, piece by piece, how many bytes have been written."""

_BEGIN_WRITING = 1 << 23
"""The bytes of one place that the system is asked to write together."""

_LANES = 2

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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
    # Large runs take turns; weights and biases alternate in most files.
    turns = accumulate(run.bytes >= _SMALL for run in runs)
    states = [_State(run, turn % _LANES) for run, turn in zip(runs, turns, strict=True)]
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
    """A run and the sums over the part of it that has been read.

    :ivar lane: which thread computes them.
    """

    def __init__(self, run: Run, lane: int) -> None:
        self.run = run
        self.lane = lane
        self._digest = new_digest() if run.digest else None
        self._crc = 0

    def add(self, piece: memoryview) -> None:
        if self._digest is not None:
            self._digest.update(piece)
        if self.run.crc:
            self._crc = zlib.crc32(piece, self._crc)

    def sums(self) -> Sums:
        return Sums(
            digest=None if self._digest is None else digest_text(self._digest),
            crc=self._crc if self.run.crc else None,
        )


_Parts: TypeAlias = "Sequence[tuple[_State, memoryview]]"


class _Jobs:
    """Computations over pieces, done by other threads, those of each lane in order."""

    def __init__(self) -> None:
        self._pools = [ThreadPoolExecutor(1) for _ in range(_LANES)]
        # For each piece that is in use, what is still to be computed over it.
        self._pending: deque[list[Future[None]]] = deque()

    def add(self, parts: _Parts) -> None:
        while self._pending and all(future.done() for future in self._pending[0]):
            self._take()
        if not self._pending and sum(len(part) for _, part in parts) < _SMALL:
            _add(parts)
            return
        lanes = [[(state, part) for state, part in parts if state.lane == lane] for lane in range(_LANES)]
        self._pending.append([pool.submit(_add, own) for pool, own in zip(self._pools, lanes, strict=True) if own])

    def make_room(self) -> None:
        """Wait until the next piece may take the place of the oldest one."""
        while len(self._pending) >= RING:
            self._take()

    def finish(self) -> None:
        """Wait until all is computed."""
        while self._pending:
            self._take()

    def _take(self) -> None:
        for future in self._pending.popleft():
            future.result()

    def __enter__(self) -> _Jobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            for pool in self._pools:
                pool.shutdown()


def _serve(extent: Extent, wanted: Sequence[_State], ring: Ring, jobs: _Jobs, advance: Advance | None) -> None:
    # On the other lane than the first run, which often has all the same bytes.
    lane = (wanted[0].lane + 1) % _LANES
    crc = _State(Run(extent, 0, extent.bytes, digest=False, crc=extent.crc is not None), lane)
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
