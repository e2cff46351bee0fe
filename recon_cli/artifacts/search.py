"""What a search for an architecture found: which tasks share which modules of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.versions import Versions

Count = Annotated[int, Field(ge=0)]
Point = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class TaskChoice(Record):
    """Between which branch points a task had the choice in a stage, and what it chose."""

    task: str
    points: tuple[Point, ...] = Field(
        min_length=2, description="branch points: the module, from 1, before which it would leave the shared ones"
    )
    probabilities: tuple[Probability, ...] = Field(
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


class CopyChoices(Record):
    """By what probabilities the copies of a module were drawn at the end of a stage, and which ones were chosen."""

    module: str
    readers: tuple[str, ...] = Field(
        min_length=2,
        description="who draws one of the copies: the tasks; or, by parents, `copy 1` and so on of the next module, "
        "and the tasks only for the last",
    )
    probabilities: tuple[tuple[Probability, ...], ...] = Field(
        description="softmax(alpha): for each reader those of the copies"
    )
    chosen: tuple[Point, ...] = Field(description="for each reader the most probable copy, from 1")
    together: tuple[tuple[Probability, ...], ...] = Field(
        description="for each task the probabilities that it shares the module with the tasks, in their order, in a "
        "branching that is drawn"
    )

    @model_validator(mode="after")
    def _consistent(self) -> CopyChoices:
        if not len(self.readers) == len(self.probabilities) == len(self.chosen):
            raise ValueError(f"not every reader of module {self.module!r} has one choice")
        copies = {len(of_reader) for of_reader in self.probabilities}
        if len(copies) > 1 or max(self.chosen) > max(copies):
            raise ValueError(f"the choices of module {self.module!r} are not of its copies")
        if any(len(of_task) != len(self.together) for of_task in self.together):
            raise ValueError(f"not every pair of tasks has a probability to share module {self.module!r}")
        return self


class ExpectedResource(Record):
    """What the chain costs, all shared, and in a branching that is drawn at the end of a stage."""

    unit: Literal["operations", "parameters"]
    weight: Annotated[float, Field(ge=0)] = Field(
        description="of the resource loss: the part of what can be shared that is expected not to be"
    )
    shared: Count
    expected: Annotated[float, Field(ge=0)] | None = Field(
        description="null where there are too many tasks to compute it"
    )


class SearchStage(Record):
    """A part of a search, in which all choices are learned together: tasks' branch points, or copies of modules."""

    steps: Annotated[int, Field(ge=1)] = Field(description="updates of the weights")
    choices: tuple[TaskChoice, ...] = Field(default=(), description="between branch points, of CoNAL and CoNAL-Pro")
    conflicts: tuple[ModuleConflicts, ...] = Field(default=(), description="of the shared modules that were looked at")
    sampled: tuple[CopyChoices, ...] = Field(
        default=(), description="between the copies of each module of the chain, of BMTAS and LTB"
    )
    resource: ExpectedResource | None = Field(default=None, description="of BMTAS and LTB")

    @model_validator(mode="after")
    def _consistent(self) -> SearchStage:
        if bool(self.choices) == bool(self.sampled):
            raise ValueError("a stage has choices either between branch points or between copies")
        if (self.resource is not None) != bool(self.sampled):
            raise ValueError("a stage has a resource if it has choices between copies, and only then")
        return self


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
        for stage in self.stages:
            self._check_sampled(stage.sampled)
        return self

    def _check_sampled(self, sampled: Sequence[CopyChoices]) -> None:
        if sampled and [choices.module for choices in sampled] != [module.name for module in self.modules]:
            raise ValueError("the copies that were chosen are not those of the modules of the chain")
        if any(len(choices.together) != len(self.tasks) for choices in sampled):
            raise ValueError("the probabilities to share are of other tasks")

    def ratio(self, module: str) -> float | None:
        """The share of a module's pairs with a negative cosine, over all stages; None if it was never looked at."""
        seen = [found for stage in self.stages for found in stage.conflicts if found.module == module]
        pairs = sum(found.pairs for found in seen)
        return sum(found.negative for found in seen) / pairs if pairs else None
