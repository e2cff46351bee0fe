"""What `recon compare-conflicts` found."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Document, Record


class Mass(Record):
    """How many of a run's cosines lie in a range."""

    count: int = Field(ge=0, description="pairs of task gradients")
    share: float = Field(ge=0, le=1, description="of all pairs that were measured")
    confidence: tuple[float, float] = Field(
        description="95% confidence interval of the share (Wilson), of as many independent trials as there are "
        "iterations in which a pair was measured: the pairs of one iteration depend on each other"
    )


class ComparedRun(Record):
    """How the cosines of one run are distributed, and what became of the conflicts of the first run."""

    name: str
    scores_digest: str = Field(description="SHA-256 of the scores document")
    complete: bool = Field(description="false if the profile ended before its last step")
    iterations: int = Field(ge=1, description="iterations in which at least one pair was measured")
    pairs: int = Field(ge=1, description="task pairs measured, summed over the iterations")
    non_finite: int = Field(ge=0, description="pairs left out because a gradient held NaN or an infinity")
    masses: tuple[Mass, ...] = Field(description="of each interval, that of the highest cosines first")
    below: Mass = Field(description="of the cosines strictly below the bound")
    gds: float = Field(ge=-1, le=1, description="gradient direction similarity: mean cosine of the pairs")
    reduction_percent: float | None = Field(
        description="100 (1 - share below the bound / that of the first run); null for the first run, and where that "
        "has no cosine below the bound"
    )
    reduction_confidence: tuple[float, float] | None = Field(
        description="95% confidence interval of the reduction in percent (MOVER-R, of both shares' intervals), of the "
        "steps measured in these two runs; how much runs of other seeds differ is not in it"
    )


class ConflictComparison(Document):
    """How the cosines of the task gradients are distributed in several runs (Recon, Tables 6 and 8 to 10)."""

    SCHEMA: ClassVar[str] = "recon.conflict-comparison/1"
    MADE_BY: ClassVar[str] = "recon compare-conflicts"

    tasks: tuple[str, ...]
    layer: str | None = Field(description="null for the gradients of all shared layers as one vector")
    stage: int | None = Field(description="stage counted from 1, or null for the whole profile")
    edges: tuple[float, ...] = Field(
        min_length=1,
        description="falling; the intervals are [edges[0], 1], [edges[1], edges[0]), ..., [-1, edges[-1])",
    )
    bound: float = Field(description="the cosines strictly below it are the conflicts that may be reduced")
    runs: tuple[ComparedRun, ...] = Field(min_length=2, description="the first is what the others are compared with")

    @model_validator(mode="after")
    def _whole(self) -> ConflictComparison:
        for run in self.runs:
            if len(run.masses) != len(self.edges) + 1:
                raise ValueError(f"run {run.name!r} has not one mass per interval")
            if sum(mass.count for mass in run.masses) != run.pairs:
                raise ValueError(f"the masses of run {run.name!r} do not add up to its pairs")
        return self
