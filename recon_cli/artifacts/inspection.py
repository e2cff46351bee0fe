"""What `recon inspect` found in a file."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PrivateAttr

from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.manifest import Selection, SourceCheckpoint, SplitLayer, SplitStatistics


class InspectedTensor(Record):
    """A tensor of the weights; what could not be read of it is null."""

    key: str = Field(description="its name in the file")
    dtype: str | None = Field(description="as safetensors writes it")
    shape: tuple[int, ...] | None
    bytes: int | None = Field(description="null if its values cannot be read")
    parameter: bool = Field(description="false for a buffer, as far as name and type tell")
    tied: str | None = Field(description="an earlier tensor that lies in the same memory")
    problem: str | None = Field(description="why its values cannot be read")


class InspectedLayer(Record):
    """A layer of the weights, with its buffers."""

    name: str = Field(description="without the prefix that wrappers have put before it")
    parameters: int
    bytes: int = Field(description="of all its tensors")
    tensors: tuple[InspectedTensor, ...]


class InspectedStateDict(Record):
    """A state dict of the file; in the sizes a tied tensor counts once, and one that cannot be read not at all."""

    key: str = Field(description="where it is, as `--key` takes it; empty if the file is nothing else")
    taken: bool = Field(description="whether these are the weights that are read")
    tensors: int
    parameters: int
    bytes: int = Field(description="of all its tensors")


class InspectedStorage(Record):
    """A run of bytes of a torch file that holds several tensors of the weights, or more than they need."""

    bytes: int
    tensors: tuple[str, ...] = Field(description="the tensors that are views of it; a tied one under its first name")


class InspectedEntry(Record):
    """A part of the file that lies beside the state dicts."""

    path: str
    kind: str
    tensors: int
    bytes: int = Field(description="size of its storages, which others may share, and of other binary data in it")


class ForeignPart(Record):
    """A part of the file that is neither plain data nor a tensor. It was not looked up, and nothing was called."""

    path: str
    what: str


class Refusal(Record):
    """Why the file is not read as it is, and what can be done about it."""

    message: str
    hint: str | None


class InspectedFile(Record):
    """A file that belongs to the checkpoint."""

    name: str
    bytes: int | None = Field(description="null if it is not there")
    problem: str | None = Field(description="why it is not read")


class Branching(Record):
    """What the manifest inside a branched checkpoint says."""

    tasks: tuple[str, ...]
    layers: tuple[SplitLayer, ...]
    statistics: tuple[SplitStatistics, ...] | None = Field(
        default=None, description="the running statistics that every stream has its own of; null if one set serves all"
    )
    source: SourceCheckpoint
    selection: Selection


class InspectedCheckpoint(Record):
    """What is in a checkpoint."""

    format: str
    prefix: str = Field(description="what wrappers have put before every name of the weights")
    metadata: dict[str, str] = Field(description="text that it carries besides its tensors, but for its manifest")
    branching: Branching | None = Field(description="null if it is not branched")
    state_dicts: tuple[InspectedStateDict, ...]
    layers: tuple[InspectedLayer, ...] = Field(description="of the state dict that is taken")
    storages: tuple[InspectedStorage, ...]
    entries: tuple[InspectedEntry, ...]
    foreign: tuple[ForeignPart, ...] = Field(description="also those that do not matter with --key")
    refusal: Refusal | None = Field(description="null if the weights are read as they are")


class InspectedDocument(Record):
    """What a document of Recon says, in short."""

    document_schema: str
    facts: dict[str, str]
    _document: Document | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, document: Document, facts: dict[str, str]) -> InspectedDocument:
        """What a document says, and the document itself, which is not written along."""
        found = cls(document_schema=document.SCHEMA, facts=facts)
        found._document = document
        return found

    @property
    def document(self) -> Document | None:
        """The document; None where the inspection was itself read from a file."""
        return self._document


class Inspection(Document):
    """What `recon inspect` found in a file: a checkpoint or a document."""

    SCHEMA: ClassVar[str] = "recon.inspection/1"
    MADE_BY: ClassVar[str] = "recon inspect"

    name: str = Field(description="its file name, without folders")
    bytes: int = Field(description="of all its files")
    files: tuple[InspectedFile, ...]
    checkpoint: InspectedCheckpoint | None
    document: InspectedDocument | None

    @property
    def passed(self) -> bool:
        """Whether nothing in the file is refused."""
        return self.checkpoint is None or self.checkpoint.refusal is None
