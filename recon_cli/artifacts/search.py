"""What a search for an architecture found: which tasks share which modules of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.versions import Versions

Count = Annotated[int, Field(ge=0)]
Point = Annotated[int, Field(ge=1)]


class TaskChoice(Record):
    """Between which branch points a task had the choice in a stage, and what it chose."""

    task: str
    points: tuple[Point, ...] = Field(
        min_length=2, description="branch points: the module, from 1, before which it would leave the shared ones"
    )
    probabilities: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        description="softmax(alpha) at the end of the stage, in the order of `points`"
    )
    chosen: Point

    @model_validator(mode="after")
    def _consistent(self) -> TaskChoice:
        if len(self.points) != len(self.probabilities) or self.chosen not in self.points:
            raise ValueError(f"the choice of task {self.task!r} is not one of its branch points")
        return self


class ModuleConflicts(Record):
    """How often tasks' gradients of a shared module conflicted in a stage."""

    module: str
    pairs: Count = Field(description="pairs of tasks' gradients, over all steps")
    negative: Count = Field(description="those with a negative cosine")
    zeroed: Count = Field(description="steps whose joint update of the module was set to zero (Eq. 5)")

    @model_validator(mode="after")
    def _consistent(self) -> ModuleConflicts:
        if self.negative > self.pairs:
            raise ValueError(f"module {self.module!r} has more conflicts than pairs")
        return self

    @property
    def ratio(self) -> float | None:
        """The share of pairs with a negative cosine (CoNAL, Table 1); None without any pair."""
        return self.negative / self.pairs if self.pairs else None


class SearchStage(Record):
    """A part of a search, in which all choices are learned together."""

    steps: Annotated[int, Field(ge=1)] = Field(description="updates of the weights, each after one of alpha")
    choices: tuple[TaskChoice, ...] = Field(min_length=1)
    conflicts: tuple[ModuleConflicts, ...] = Field(description="of the shared modules that were looked at")


class SearchedLayer(Record):
    """A layer of a module, with the further names of tied weights."""

    name: str
    aliases: tuple[str, ...] = ()


class SearchedModule(Record):
    """A module of the chain, and the tasks that share it."""

    name: str
    layers: tuple[SearchedLayer, ...]
    parameters: Count
    groups: tuple[tuple[str, ...], ...] = Field(description="the tasks of each copy: a partition of all tasks")


class SearchResult(Document):
    """What `recon search` found; `recon split --search` carries it out."""

    SCHEMA: ClassVar[str] = "recon.search/1"
    MADE_BY: ClassVar[str] = "recon search"

    method: str
    tasks: tuple[str, ...] = Field(min_length=2)
    modules: tuple[SearchedModule, ...] = Field(min_length=1, description="the chain, in the order of the data flow")
    branch_points: tuple[Point, ...] = Field(
        description="for each task, the module, from 1, before which it leaves the modules that all tasks share; "
        "one more than there are modules if it does not"
    )
    stages: tuple[SearchStage, ...] = Field(min_length=1)
    steps: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(ge=0)]
    seed: int
    device: str
    config_digest: str
    checkpoint_digest: str | None
    versions: Versions
    flow: Dataflow | None = Field(
        description="the network's data flow on one batch, from which follows what a split costs; null if not known"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SearchResult:
        names = [layer.name for module in self.modules for layer in module.layers]
        if len(set(names)) < len(names):
            raise ValueError("a layer is in the chain twice")
        coarser: Sequence[Sequence[str]] = [self.tasks]
        for module in self.modules:
            if sorted(task for group in module.groups for task in group) != sorted(self.tasks):
                raise ValueError(f"the groups of module {module.name!r} are no partition of the tasks")
            if not all(any(set(group) <= set(each) for each in coarser) for group in module.groups):
                raise ValueError(f"the groups of module {module.name!r} join tasks that have parted before it")
            coarser = module.groups
        if len(self.branch_points) != len(self.tasks) or max(self.branch_points) > len(self.modules) + 1:
            raise ValueError("there is not one branch point of the chain per task")
        if self.flow is not None and self.flow.tasks != self.tasks:
            raise ValueError("the data flow is of other tasks")
        return self

    def ratio(self, module: str) -> float | None:
        """The share of a module's pairs with a negative cosine, over all stages; None if it was never looked at."""
        seen = [found for stage in self.stages for found in stage.conflicts if found.module == module]
        pairs = sum(found.pairs for found in seen)
        return sum(found.negative for found in seen) / pairs if pairs else None
