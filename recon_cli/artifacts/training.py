"""What a training came to: of one network and seed, and over seeds and the networks of single tasks."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.method import Method
from recon_cli.artifacts.versions import Versions

Count = Annotated[int, Field(ge=0)]
Figures = dict[str, dict[str, float | None]]
"""Task -> `loss` or a metric -> its value; null where nothing was labelled, or it is not finite."""


class Criterion(Record):
    """A figure that says how good a network is at a task."""

    task: str
    name: str = Field(description="`loss`, or what the config calls the metric")
    better: Literal["higher", "lower"]


class Evaluation(Record):
    """What a network came to on the validation data after some step."""

    step: Count
    epoch: Count = Field(description="passes over the training data that were made")
    figures: Figures


class Training(Document):
    """One network that was trained from one seed."""

    SCHEMA: ClassVar[str] = "recon.training/1"
    MADE_BY: ClassVar[str] = "recon train"

    tasks: tuple[str, ...] = Field(description="the tasks that it was trained for")
    seed: Count
    steps: Count
    epochs: Count
    iterations: Count | None = Field(description="the steps that were asked for; null where epochs were")
    criteria: tuple[Criterion, ...]
    last: Evaluation | None = Field(description="after the last step; null without validation data")
    best: Evaluation | None = Field(description="of the evaluations, the best by `best_by`; null without any")
    best_by: str
    parameters: Count = Field(description="of the network; of one for a single task, those that its loss reaches")
    bytes: Count = Field(description="their size; #P is this in units of 2^20")
    operations: Count | None = Field(
        description="floating-point operations of a forward pass on the first batch, as torch counts them; null where "
        "they could not be followed"
    )
    split_layers: Count = Field(description="layers that tasks have copies of")
    seconds: float = Field(ge=0, description="of all steps; evaluations are not counted")
    evaluation_seconds: float = Field(ge=0)
    method: Method
    precision: Literal["float32", "bfloat16", "float16"]
    device: str
    processes: int = Field(ge=1)
    config_digest: str
    model_digest: str | None
    checkpoint_digest: str | None
    manifest_digest: str | None
    reinitialised: bool
    notes: dict[str, Count] = Field(description="what the update rule had to say, and of how many steps")
    versions: Versions


class Statistic(Record):
    """A figure over seeds."""

    mean: float
    deviation: float | None = Field(ge=0, description="standard deviation of a sample; null for one seed")
    values: tuple[float, ...] = Field(description="in the order of the seeds")

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """Mean and deviation of one value or more."""
        deviation = stdev(values) if len(values) > 1 else None
        return cls(mean=fmean(values), deviation=deviation, values=tuple(values))


Statistics = dict[str, dict[str, Statistic | None]]
"""Task -> `loss` or a metric -> what it is over the seeds; null where a seed has none."""


class Results(Document):
    """What one way of training came to, over seeds; for single tasks, their networks taken together."""

    SCHEMA: ClassVar[str] = "recon.results/1"
    MADE_BY: ClassVar[str] = "recon train"
    FILE: ClassVar[str] = "results.json"
    """What it is called in the folder of a training."""

    tasks: tuple[str, ...]
    single_task: bool = Field(description="whether every task has a network of its own")
    seeds: tuple[Count, ...]
    criteria: tuple[Criterion, ...]
    last: Statistics = Field(description="after the last step; empty without validation data")
    best: Statistics = Field(description="at each seed's best evaluation by `best_by`")
    best_by: str
    parameters: Count
    bytes: Count
    operations: Count | None
    seconds: float = Field(ge=0, description="training time of a seed, mean")
    steps: Count
    split_layers: Count
    method: Method
    trainings: tuple[Training, ...] = Field(description="by seed, and for single tasks by task")

    @model_validator(mode="after")
    def _whole(self) -> Results:
        known = {(criterion.task, criterion.name) for criterion in self.criteria}
        if len(known) < len(self.criteria):
            raise ValueError("a criterion stands in `criteria` twice")
        for statistics in (self.last, self.best):
            figures = {(task, name): figure for task, of_task in statistics.items() for name, figure in of_task.items()}
            if statistics and set(figures) != known:
                raise ValueError("the figures are not those that `criteria` names")
            if any(figure is not None and len(figure.values) != len(self.seeds) for figure in figures.values()):
                raise ValueError("a figure has not one value per seed")
        return self
