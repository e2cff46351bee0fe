"""What `recon tasks` finds: which tasks conflict, which get along, and how that went over time."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Document, Record

Count = Annotated[int, Field(ge=0)]
Measure = Literal["GDS", "GMS", "FD"]
Rate = Annotated[float, Field(ge=0, le=1)]


class TaskGroup(Record):
    """Tasks that get along."""

    tasks: tuple[str, ...] = Field(min_length=1)
    highest_rate: Rate | None = Field(description="of two tasks of the group; null for a task by itself")


class Grouping(Record):
    """All tasks that were measured, in groups of those that get along."""

    groups: tuple[TaskGroup, ...] = Field(
        description="no two tasks of one conflict more often than two tasks do on average, the `mean_rate`"
    )
    mean_rate: Rate = Field(description="mean of the rates of every two tasks")
    within_rate: Rate | None = Field(description="mean rate of two tasks of one group; null if there are none")
    across_rate: Rate | None = Field(description="mean rate of two tasks of different groups; null if there are none")
    beyond_chance: bool = Field(
        description="whether the rates differ by more than those of tasks that all conflict alike would in 19 of 20 "
        "profiles, were the iterations independent; if not, the groups mean little"
    )


class Course(Record):
    """How a measure went over the windows of time; numbers have six decimals."""

    measure: Measure
    feature: str | None = Field(description="the shared representation that FD is of; null for GDS and GMS")
    values: tuple[float | None, ...] = Field(description="mean in each window; null where it was not measured")
    smoothed: tuple[float | None, ...] = Field(
        description="mean over the fewest windows up to this one that hold a tenth of all measured iterations"
    )
    last: float | None = Field(description="mean over the last windows, which hold `last_iterations`")

    @model_validator(mode="after")
    def _even(self) -> Course:
        if len(self.values) != len(self.smoothed):
            raise ValueError("there is not one smoothed value per window")
        return self


class TaskRelations(Document):
    """Which tasks conflict, which get along, and how alike their gradients were over time."""

    SCHEMA: ClassVar[str] = "recon.tasks/1"
    MADE_BY: ClassVar[str] = "recon tasks"

    tasks: tuple[str, ...] = Field(min_length=2)
    layer: str | None = Field(description="null for the gradients of all shared layers as one vector")
    severity: float = Field(description="S: two tasks conflict where their cosine is strictly below it")
    scores_digest: str = Field(description="SHA-256 of the scores document")
    complete: bool = Field(description="false if the profile ended before its last step")
    iterations: int = Field(ge=0, description="steps measured")
    rates: tuple[tuple[Rate | None, ...], ...] = Field(
        description="for each two tasks, the part of the iterations in which they were measured where they conflict; "
        "null on the diagonal, and where they never were"
    )
    cosines: tuple[tuple[float | None, ...], ...] = Field(description="likewise, the mean cosine")
    measured: tuple[tuple[Count, ...], ...] = Field(
        description="likewise, the iterations in which they were measured; 0 on the diagonal"
    )
    grouping: Grouping | None = Field(description="null where fewer than three tasks were measured")
    windows: tuple[Count, ...] = Field(description="iterations measured in each window of time")
    last_iterations: int = Field(
        ge=0, description="iterations in the fewest last windows that hold 50 or more; all of them, if they are fewer"
    )
    courses: tuple[Course, ...]

    @model_validator(mode="after")
    def _whole(self) -> TaskRelations:
        tasks = len(self.tasks)
        for matrix in (self.rates, self.cosines, self.measured):
            if [len(row) for row in matrix] != [tasks] * tasks:
                raise ValueError("a matrix has not one row and one column per task")
            if any(matrix[one][other] != matrix[other][one] for one in range(tasks) for other in range(one)):
                raise ValueError("a matrix is not symmetric")
        if any(len(course.values) != len(self.windows) for course in self.courses):
            raise ValueError("a course has not one value per window")
        return self
