"""What `recon compare-results` found."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.training import Criterion, Statistic, Statistics

Which = Literal["last", "best"]


class ComparedCriterion(Criterion):
    """A figure that the runs are compared by."""

    counted: bool = Field(
        description="whether improvements count it: they count a task's metrics, and its loss where it has none"
    )


class Improvement(Record):
    """By how much a run is better than a baseline, in percent: above 0 it is better, below 0 worse."""

    total: Statistic | None = Field(
        description="mean over the tasks, of the figures' means; its values are those of the run's seeds, each against "
        "the baseline's mean over its own seeds; null if a figure cannot be compared"
    )
    tasks: dict[str, Statistic | None] = Field(
        description="of each task, mean over its criteria of (M - S) / S, or (S - M) / S where lower is better; M is "
        "the run's figure, S the baseline's"
    )
    note: str | None = Field(description="why something is null")


class ComparedResults(Record):
    """A way of training, next to the others."""

    name: str
    results_digest: str = Field(description="SHA-256 of the results document")
    single_task: bool = Field(description="whether every task has a network of its own")
    seeds: tuple[int, ...]
    best_by: str = Field(description="what a seed's best evaluation was chosen by")
    figures: Statistics
    delta_m: Improvement | None = Field(
        description="improvement over the single-task networks (Recon, section 5.1); null where none are given"
    )
    improvement: Improvement = Field(description="improvement over the first run, by the same formula")
    bytes: int = Field(ge=0, description="size of the parameters; #P is this in units of 2^20")
    operations_ratio: float | None = Field(
        description="floating-point operations of a forward pass by those of the first run; null where one is not known"
    )
    seconds_ratio: float | None = Field(description="training time by that of the first run; null if that took no time")


class ResultComparison(Document):
    """Several ways of training, and how much each improves on the first and on single-task networks."""

    SCHEMA: ClassVar[str] = "recon.result-comparison/1"
    MADE_BY: ClassVar[str] = "recon compare-results"

    tasks: tuple[str, ...]
    which: Which = Field(description="the figures after the last step, or at each seed's best evaluation")
    criteria: tuple[ComparedCriterion, ...]
    single_task: int | None = Field(
        description="place in `runs`, counted from 0, of the single-task networks that delta m is over; null if none"
    )
    runs: tuple[ComparedResults, ...] = Field(min_length=2, description="the first is what `improvement` is over")

    @model_validator(mode="after")
    def _whole(self) -> ResultComparison:
        if self.single_task is not None and not 0 <= self.single_task < len(self.runs):
            raise ValueError("`single_task` is no place in `runs`")
        known = {(criterion.task, criterion.name) for criterion in self.criteria}
        for run in self.runs:
            if {(task, name) for task, figures in run.figures.items() for name in figures} != known:
                raise ValueError(f"the figures of run {run.name!r} are not those that `criteria` names")
            if (run.delta_m is None) != (self.single_task is None):
                raise ValueError(f"run {run.name!r} has a delta m where the others have none, or none where they have")
        return self
