"""Moving bytes: every extent is read once, and each of its pieces goes to all places where it is wanted.

Digests and checksums are computed by a second thread meanwhile; both the copying and the computing let go of Python's
lock, so on two cores they take the time of the longer one.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from recon_cli.artifacts.digests import digest_text, new_digest
from recon_cli.artifacts.publish import write_all
from recon_cli.checkpoints.extents import RING, Extent, FileExtent, Ring

_SMALL = 1 << 15
"""Below this, handing bytes to another thread costs more than to compute their sums."""


@dataclass(frozen=True)
class Place:
    """Where bytes are written: an offset in an open file."""

    descriptor: int
    offset: int


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


def stream(runs: Sequence[Run], advance: Callable[[int], None] | None = None) -> list[Sums]:
    """Read the extents of some runs, in the order in which they lie, and serve every run.

    :param advance: told, piece by piece, how many bytes have been written.
    :returns: the sums of every run, in the order of `runs`.
    :raises ReconError: if a file ends early, or an extent's bytes have another checksum than its file states.
    """
    states = [_State(run) for run in runs]
    by_extent: dict[Extent, list[_State]] = {}
    for state in states:
        by_extent.setdefault(state.run.extent, []).append(state)
    ring = Ring()
    with ThreadPoolExecutor(1) as pool:
        jobs = _Jobs(pool)
        for extent in sorted(by_extent, key=_position):
            wanted = sorted(by_extent[extent], key=lambda state: state.run.begin)
            _serve(extent, wanted, ring, jobs, advance)
        jobs.finish()
    return [state.sums() for state in states]


def _position(extent: Extent) -> tuple[str, int]:
    """Where an extent lies; those of one file are read in its order."""
    return (str(extent.file.path), extent.offset) if isinstance(extent, FileExtent) else ("", 0)


class _State:
    """A run and the sums over the part of it that has been read."""

    def __init__(self, run: Run) -> None:
        self.run = run
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


class _Jobs:
    """Computations done in order by another thread, a few at a time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._pending: deque[Future[None]] = deque()

    def add(self, job: Callable[[], None], size: int) -> None:
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        if size < _SMALL and not self._pending:
            job()
        else:
            self._pending.append(self._pool.submit(job))

    def make_room(self) -> None:
        """Wait until the next piece may take the place of the oldest one."""
        while len(self._pending) >= RING:
            self._pending.popleft().result()

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()


def _serve(
    extent: Extent, wanted: Sequence[_State], ring: Ring, jobs: _Jobs, advance: Callable[[int], None] | None
) -> None:
    crc = _State(Run(extent, 0, extent.bytes, digest=False, crc=extent.crc is not None))
    begin = first = 0
    for piece in _pieces(extent, ring, jobs):
        end = begin + len(piece)
        while first < len(wanted) and _end(wanted[first]) <= begin:
            first += 1
        parts = [(crc, piece)] if crc.run.crc else []
        for state in wanted[first:]:
            if state.run.begin >= end:
                break
            lower, upper = max(state.run.begin, begin), min(_end(state), end)
            if lower < upper:
                parts.append((state, piece[lower - begin : upper - begin]))
        jobs.add(lambda parts=parts: _add(parts), len(piece))  # type: ignore[misc]
        for state, part in parts:
            done = max(begin - state.run.begin, 0)
            for place in state.run.places:
                write_all(place.descriptor, part, place.offset + done)
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


def _add(parts: Sequence[tuple[_State, memoryview]]) -> None:
    for state, piece in parts:
        state.add(piece)
