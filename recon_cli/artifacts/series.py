"""What was measured over time, and between which tasks.

The measured iterations are cut into windows of equal length, one after another, of which a profile never has more than
`MOST_WINDOWS`: where there would be more, two and two become one. Numbers that are not counts have six decimals.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Record

MOST_WINDOWS = 128

Count = Annotated[int, Field(ge=0)]
Counts = tuple[Count, ...]
Means = tuple[float | None, ...]


class HalfSeries(Record):
    """What was counted for one layer on halves of batches, in each window; see `Halves`."""

    pairs: Counts
    same: tuple[Counts, ...]
    cross: tuple[Counts, ...]

    @model_validator(mode="after")
    def _even(self) -> HalfSeries:
        rows = (*self.same, *self.cross)
        if len(self.same) != len(self.cross) or any(len(row) != len(self.pairs) for row in rows):
            raise ValueError("the series of the halves are not of equally many windows")
        if any(count > pairs for row in rows for count, pairs in zip(row, self.pairs, strict=True)):
            raise ValueError("a window has more conflicts on halves than pairs")
        return self


class Series(Record):
    """What was counted for one layer in each window."""

    iterations: Counts = Field(description="iterations in which at least one pair was measured")
    pairs: Counts = Field(description="task pairs measured")
    conflicts: tuple[Counts, ...] = Field(description="for each of the severities, the S-conflict score of each window")
    z_conflicts: tuple[Counts, ...] = Field(
        description="for each of the `z_levels`, the pairs of each window with cos sqrt(d) below it; empty where the "
        "gradient is not that of one layer"
    )
    gds: Means = Field(description="mean cosine of the pairs; null without pairs")
    gms: Means = Field(description="mean magnitude similarity of the pairs; null without pairs")
    opposition: Means = Field(description="mean opposition of the pairs; null without pairs")
    halves: HalfSeries | None = Field(default=None, description="the same on halves of batches, if they were measured")

    @model_validator(mode="after")
    def _even(self) -> Series:
        rows = [self.iterations, self.pairs, *self.conflicts, *self.z_conflicts]
        if any(len(row) != len(self.pairs) for row in (*rows, self.gds, self.gms, self.opposition)):
            raise ValueError("the series are not of equally many windows")
        if any(count > pairs for row in rows[2:] for count, pairs in zip(row, self.pairs, strict=True)):
            raise ValueError("a window has more conflicts than pairs")
        if self.halves is not None and len(self.halves.pairs) != len(self.pairs):
            raise ValueError("the series of the halves is not of as many windows")
        return self


class FeatureSeries(Series):
    """What was counted for one shared representation in each window."""

    fd: Means = Field(description="mean Feature Disentanglement; null where it was not measured")

    @model_validator(mode="after")
    def _measured(self) -> FeatureSeries:
        if len(self.fd) != len(self.pairs):
            raise ValueError("the series are not of equally many windows")
        return self


class Between(Record):
    """What was counted for one layer between each two tasks i < j, in the order (0, 1), (0, 2), ..."""

    pairs: Counts = Field(description="iterations in which the two were measured")
    conflicts: tuple[Counts, ...] = Field(
        description="for each of the severities, how often the cosine of the two was strictly below it"
    )
    cosines: Means = Field(description="mean cosine of the two; null where they were never measured")

    @model_validator(mode="after")
    def _even(self) -> Between:
        if any(len(row) != len(self.pairs) for row in (*self.conflicts, self.cosines)):
            raise ValueError("not all rows are of the same pairs of tasks")
        if any(count > times for row in self.conflicts for count, times in zip(row, self.pairs, strict=True)):
            raise ValueError("two tasks conflict more often than they were measured")
        if [mean is None for mean in self.cosines] != [times == 0 for times in self.pairs]:
            raise ValueError("`cosines` are there exactly where `pairs` are not 0")
        return self
