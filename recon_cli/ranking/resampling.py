"""What would have been measured had other batches been drawn: whole windows of time are drawn anew, or dealt out to two
halves, for all layers alike, within each quarter of the profile; several successive ones together where their rates
depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import ceil
from random import Random

from recon_cli.errors import ReconError, counted
from recon_cli.ranking.trials import FEWEST_WINDOWS, autocorrelation_time, quarters

RESAMPLINGS = 1000
HALVINGS = 500

Course = tuple[Sequence[int], Sequence[int]]
"""Of one layer, the conflicts and the pairs of each window."""


def block_length(courses: Iterable[Course], windows: int) -> int:
    """How many windows are drawn together: the longest of the layers' autocorrelation times, as far as that leaves
    four blocks or more in each quarter.

    :param windows: how many there are.
    :raises ReconError: if they are too few.
    """
    if windows < FEWEST_WINDOWS:
        raise ReconError(
            f"{counted(windows, 'window')} of time {'is' if windows == 1 else 'are'} too few to tell how certain the "
            "ranking is",
            "measure 16 iterations or more",
        )
    times = []
    for below, pairs in courses:
        rates = [conflicts / number for conflicts, number in zip(below, pairs, strict=True) if number]
        times.append(autocorrelation_time(rates))
    return min(ceil(max(times)), max(1, windows // FEWEST_WINDOWS))


def resamplings(windows: int, block: int) -> Iterable[list[int]]:
    """How often each window is there, in one resampling after another; the same ones each time."""
    return islice(_resamplings(windows, block), RESAMPLINGS)


def halvings(windows: int, block: int) -> Iterable[tuple[list[int], list[int]]]:
    """How often each window is in the one and in the other half of the profile, 0 or 1, in one division after another;
    the same ones each time.

    The halves are independent of each other, as two profiles of half the length are; a resampling and the profile that
    it is drawn from are not, so that they agree more than two profiles do.
    """
    random = Random(0)
    for _ in range(HALVINGS):
        first = [0] * windows
        for part in quarters(range(windows)):
            blocks = [part[begin : begin + block] for begin in range(0, len(part), block)]
            random.shuffle(blocks)
            # Of an odd number, the last block is in either half.
            for drawn in blocks[: (len(blocks) + random.randrange(2)) // 2]:
                for window in drawn:
                    first[window] = 1
        yield first, [1 - there for there in first]


def _resamplings(windows: int, block: int) -> Iterator[list[int]]:
    random = Random(0)
    parts = list(quarters(range(windows)))
    while True:
        times = [0] * windows
        for part in parts:
            begins = random.choices(range(len(part)), k=ceil(len(part) / block))
            drawn = [part[(begin + step) % len(part)] for begin in begins for step in range(block)]
            for window in drawn[: len(part)]:
                times[window] += 1
        yield times
