"""The manifest of a branched checkpoint: which layers were split how, and where every tensor of the source went."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.formats import CheckpointFormat
from recon_cli.artifacts.frames import FrameContent, Framed
from recon_cli.artifacts.sharing import Sharing
from recon_cli.artifacts.versions import Versions


class Branch(Record):
    """One copy of a split layer, and the tasks that use it."""

    id: str = Field(description="the copy's identifier in tensor names")
    tasks: tuple[str, ...]


class Split(Record):
    """Something of which there are copies, and the partition of the tasks over them."""

    name: str = Field(description="of the layer")
    branches: tuple[Branch, ...]

    def branch_of(self, task: str) -> str:
        """The identifier of the copy that a task uses."""
        return next(branch.id for branch in self.branches if task in branch.tasks)


class SplitLayer(Split):
    """A layer that was split."""

    aliases: tuple[str, ...] = ()

    def behind(self, prefix: str) -> SplitLayer:
        """The same layer where something stands before all names."""
        aliases = tuple(prefix + name for name in self.aliases)
        return self.model_copy(update={"name": prefix + self.name, "aliases": aliases})


class SplitStatistics(Split):
    """Running statistics that every stream has its own of, of a layer that stays shared otherwise."""

    buffers: tuple[str, ...] = Field(description="the tensors that were split, under all their names in the source")

    def behind(self, prefix: str) -> SplitStatistics:
        """The same statistics where something stands before all names."""
        buffers = tuple(prefix + key for key in self.buffers)
        return self.model_copy(update={"name": prefix + self.name, "buffers": buffers})


_SHARING = (
    "running statistics of layers that stay shared behind a split: `per-stream`, every stream has its own; `shared`, "
    "one set for all tasks, as was asked for; `unknown`, one set as well, for it is not known which layers those are"
)
_STATISTICS = "the running statistics that every stream has its own of; null if one set serves all tasks"


class PlannedTensor(Record):
    """Where one tensor of the source goes."""

    key: str = Field(description="its name in the source")
    dtype: str
    shape: tuple[int, ...]
    copies: dict[str, str] | None = Field(description="branch id -> name of the copy; null if it was kept")

    @property
    def places(self) -> tuple[str, ...]:
        """The names under which the tensor stands in the branched checkpoint."""
        return (self.key,) if self.copies is None else tuple(self.copies.values())


class TensorRecord(PlannedTensor):
    """Where one tensor of the source went, and what it holds."""

    digest: str = Field(description="BLAKE3 of its bytes, the same for all its copies")


class Size(Record):
    """The size of a checkpoint; a tied tensor counts once among the parameters."""

    parameters: int
    parameter_bytes: int
    tensors: int
    tensor_bytes: int = Field(description="bytes of all tensors, buffers included")


class Sizes(Record):
    """A checkpoint before and after its split."""

    before: Size
    after: Size
    split_parameters: int = Field(description="parameters of the split layers, counted once")
    shared_parameters: int | None = Field(description="parameters of all ranked layers, if a ranking was used")
    wanted_parameters: int | None = Field(
        default=None, description="parameters that the split layers of `random-parameters` were to have, else null"
    )


class SourceCheckpoint(Record):
    """The checkpoint that was split."""

    name: str = Field(description="its file name, without folders")
    format: CheckpointFormat
    digest: str = Field(description="SHA-256 over the names, types, shapes and digests of its tensors")
    key: str | None = Field(default=None, description="where the weights lie in a file that holds more; null if alone")
    prefix: str = Field(
        default="", description="what all names begin with, in the source and the branched checkpoint, but not here"
    )


class BranchingCost(Record):
    """The floating-point operations of a forward pass, as torch counts them: of matrix products and convolutions."""

    shared: int = Field(ge=0, description="those of the network that was not split")
    branched: int = Field(
        ge=0, description="those of the branched network: its trunk once, each stream with its own task's head alone"
    )
    by_layer: dict[str, int] = Field(
        description="for every split layer, those of the network with it alone split, and what is tied to it"
    )

    @property
    def ratio(self) -> float:
        """The branched network's operations relative to those of the network that was not split."""
        return self.branched / self.shared if self.shared else 1.0

    def added_by(self, layer: str) -> float:
        """What splitting a layer alone adds, relative to the network that was not split."""
        return self.by_layer[layer] / self.shared - 1 if self.shared else 0.0


Policy = Literal[
    "top-k",
    "min-score",
    "budget",
    "max-params",
    "layers",
    "search",
    "random-layers",
    "random-parameters",
    "first-k",
    "last-k",
]


class ConflictShares(Record):
    """How much of the conflict a split removes: the ranking's score, summed over its layers and pairs of tasks."""

    found: float = Field(ge=0, description="of all ranked layers")
    left: float = Field(ge=0, description="between tasks that share a layer, or a copy of one")

    @property
    def removed(self) -> float:
        """The share of it that is gone."""
        return 1 - self.left / self.found if self.found else 0.0


class Selection(Record):
    """How the split layers were chosen."""

    policy: Policy
    argument: str
    granularity: Literal["layer", "module"] = Field(
        default="layer", description="whether layers were chosen, or whole modules of them"
    )
    seed: int | None = Field(default=None, description="of a random policy; null for the others")
    ranking_digest: str | None = Field(description="SHA-256 of the ranking document")
    search_digest: str | None = Field(
        default=None, description="SHA-256 of what `recon search` found; null for the other policies"
    )
    max_cost: float | None = Field(
        default=None,
        ge=1,
        description="times the operations of the shared network that were allowed; null if not limited",
    )
    left_out: tuple[str, ...] = Field(default=(), description="layers that were chosen, but would have exceeded that")
    max_groups: int | None = Field(
        default=None, ge=2, description="how many copies a layer might have; null for one for every task"
    )
    conflict: ConflictShares | None = Field(default=None, description="null where the ranking does not tell it")


class CarriedEntry(Record):
    """Something that lies beside the weights in the source, and what becomes of it."""

    path: str = Field(description="where it is in the source")
    treatment: Literal["branched", "kept", "left out"] = Field(
        description="branched: each copy of a split tensor has a copy of what belongs to it"
    )
    reason: str | None = Field(default=None, description="why the state of an optimizer was not branched along")


Way = Literal["fork", "passes"]
"""`fork`: what is the same for several tasks is computed once; `passes`: the whole network runs once for every task."""


class BranchedProgram(Record):
    """How a branched program computes."""

    way: Way = Field(
        description="fork: what is the same for several tasks is computed once; passes: all of it per task"
    )
    reason: str | None = Field(default=None, description="why it is not a fork")


class PlannedSource(SourceCheckpoint):
    """The checkpoint that a plan was made for; with another one it is not carried out."""

    metadata_digest: str = Field(description="SHA-256 of the text that the file carries besides its tensors, as JSON")


class PlannedOutput(Record):
    """What a split writes."""

    bytes: int = Field(description="size of the branched checkpoint")
    manifest_bytes: int = Field(description="size of the manifest beside it")
    free_bytes: int | None = Field(description="free space of the output's file system; null if no output was named")

    @property
    def total(self) -> int:
        """Bytes of both files."""
        return self.bytes + self.manifest_bytes


class SplitPlan(Document):
    """What `recon split` would do to a checkpoint; `recon split --plan` carries it out."""

    SCHEMA: ClassVar[str] = "recon.plan/1"
    MADE_BY: ClassVar[str] = "recon split --dry-run --json"

    tasks: tuple[str, ...]
    batchnorm: Sharing = Field(default="unknown", description=_SHARING)
    layers: tuple[SplitLayer, ...]
    statistics: tuple[SplitStatistics, ...] | None = Field(default=None, description=_STATISTICS)
    tensors: tuple[PlannedTensor, ...] = Field(description="every tensor of the source, in its order")
    parameters: tuple[str, ...] = Field(description="the source's parameters, in its order, a tied one once")
    entries: tuple[CarriedEntry, ...] = ()
    sizes: Sizes
    cost: BranchingCost | None = Field(default=None, description="what it costs in operations, if that is known")
    source: PlannedSource
    selection: Selection
    output: PlannedOutput

    @model_validator(mode="after")
    def _consistent(self) -> SplitPlan:
        _check_consistent(self)
        return self


class Manifest(Framed, Document):
    """What `recon split` did to a checkpoint; it stands beside the branched file and inside it."""

    SCHEMA: ClassVar[str] = "recon.manifest/1"
    MADE_BY: ClassVar[str] = "recon split"
    METADATA_KEY: ClassVar[str] = "recon.manifest"

    tasks: tuple[str, ...]
    batchnorm: Sharing = Field(description=_SHARING)
    layers: tuple[SplitLayer, ...]
    statistics: tuple[SplitStatistics, ...] | None = Field(default=None, description=_STATISTICS)
    tensors: tuple[TensorRecord, ...] = Field(description="every tensor of the source, in its order")
    entries: tuple[CarriedEntry, ...] = ()
    program: BranchedProgram | None = Field(default=None, description="null for a file of weights")
    sizes: Sizes
    cost: BranchingCost | None = Field(default=None, description="what it costs in operations, if that is known")
    source: SourceCheckpoint
    selection: Selection
    versions: Versions

    @property
    def splits(self) -> tuple[Split, ...]:
        """The split layers, and the statistics of other layers that are split."""
        return (*self.layers, *(self.statistics or ()))

    def frame_content(self) -> FrameContent:
        """One row for every split layer, in the order in which they were chosen."""
        columns: dict[str, type] = {"layer": str, "aliases": list, "branches": int, "added_operations": float}
        columns |= {f"branch_{task}": str for task in self.tasks}
        rows = []
        for layer in self.layers:
            added = None if self.cost is None else self.cost.added_by(layer.name)
            own = [layer.branch_of(task) for task in self.tasks]
            rows.append((layer.name, list(layer.aliases), len(layer.branches), added, *own))
        return FrameContent(columns, rows)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        _check_consistent(self)
        return self


def _check_consistent(document: SplitPlan | Manifest) -> None:
    if not document.layers:
        raise ValueError("no layer is split")
    if (document.statistics is None) == (document.batchnorm == "per-stream"):
        raise ValueError(f"the statistics do not fit `batchnorm`, which is {document.batchnorm!r}")
    for split in (*document.layers, *(document.statistics or ())):
        placed = [task for branch in split.branches for task in branch.tasks]
        if sorted(placed) != sorted(document.tasks):
            raise ValueError(f"the branches of layer {split.name!r} are no partition of the tasks")
    names = [layer.name for layer in document.layers]
    if len(set(names)) < len(names) or len(set(document.tasks)) < len(document.tasks):
        raise ValueError("a layer or a task is named twice")
    if document.cost is not None and set(document.cost.by_layer) != set(names):
        raise ValueError("the cost is of other layers than those that are split")
    keys = [record.key for record in document.tensors]
    places = [place for record in document.tensors for place in record.places]
    if len(set(keys)) < len(keys) or len(set(places)) < len(places):
        raise ValueError("a tensor is named twice")
