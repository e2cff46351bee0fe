"""The figures of one case, and how they are printed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.profile.timing import Timing
from benchmarks.profile.ways import JOINT, OURS, WAYS, installed

_HEADER = (
    f"  {'':24}{'in joint steps':^30}{'in our':>9}{'extra':>12}{'largest difference':>22}\n"
    f"  {'way':24}{'median':>10}{'least':>10}{'most':>10}{'steps':>9}{'memory':>12}{'of a cosine':>22}"
)


@dataclass(frozen=True)
class Figures:
    """What was found for one case.

    :ivar timing: None if its steps were not timed.
    :ivar peaks: way -> peak bytes of its process; empty if memory was not measured.
    """

    case: str
    tasks: int
    timing: Timing | None
    peaks: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        """The block that is printed."""
        yield self.case + (f": a joint step takes {self._joint_seconds()}" if self.timing else "")
        yield _HEADER
        for name in WAYS:
            yield f"  {name:24}" + ("not installed" if name not in installed() else self._cells(name)).rstrip()
        if self.timing:
            one = self.timing.unsampled
            yield f"  {'unsampled':24}{one.median:10.4f}   +/- {one.error:.4f}, {one.pairs} pairs"
            yield f"  {'ours, by operations':24}{self.timing.operations:10.2f}"
            yield f"  {'(1 + 2T)/3':24}{(1 + 2 * self.tasks) / 3:10.2f}"

    def _joint_seconds(self) -> str:
        assert self.timing is not None
        seconds = self.timing.seconds[JOINT]
        return f"{statistics.median(seconds):.4f} s ({min(seconds):.4f} to {max(seconds):.4f}, {len(seconds)} rounds)"

    def _cells(self, name: str) -> str:
        return self._time(name) + self._memory(name) + self._difference(name)

    def _time(self, name: str) -> str:
        if self.timing is None:
            return f"{'-':>10}{'-':>10}{'-':>10}{'-':>9}"
        joint, ours = self._ratios(name, JOINT), self._ratios(name, OURS)
        return f"{statistics.median(joint):10.2f}{min(joint):10.2f}{max(joint):10.2f}{statistics.median(ours):9.2f}"

    def _ratios(self, name: str, other: str) -> list[float]:
        assert self.timing is not None
        seconds = self.timing.seconds
        return [one / two for one, two in zip(seconds[name], seconds[other], strict=True)]

    def _memory(self, name: str) -> str:
        if name not in self.peaks or JOINT not in self.peaks:
            return f"{'-':>12}"
        return f"{(self.peaks[name] - self.peaks[JOINT]) / 2**20:8.0f} MiB"

    def _difference(self, name: str) -> str:
        differences = self.timing.differences if self.timing else {}
        if name not in differences:
            return f"{'-':>22}"
        return f"{differences[name]:22.1e}"
