"""What `recon extract` and `recon unsplit` made of a branched checkpoint."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from recon_cli.artifacts.document import Document, Record


class Retyped(Record):
    """A type of numbers that the branched checkpoint has where its source had another."""

    source: str
    found: str
    tensors: int


class PlainCheckpoint(Document):
    """A checkpoint of the original module, made from a branched one."""

    checkpoint: str = Field(description="the branched checkpoint's file name, without folders")
    files: tuple[str, ...] = Field(description="the names of what was written, without folders")
    tensors: int
    tensor_bytes: int
    kept: int = Field(description="tensors that had stayed shared, or belong to heads")
    prefix: str = Field(description="what all names begin with, as in the source, but not in the manifest")
    found_prefix: str = Field(description="what all names of the branched checkpoint begin with instead")
    retyped: tuple[Retyped, ...] = Field(description="types of numbers that are others than the source's")


class UsedBranch(Record):
    """The branch of a split layer, or of the running statistics of another one, that a task uses."""

    layer: str
    branch: str


class Extraction(PlainCheckpoint):
    """What `recon extract` did."""

    SCHEMA: ClassVar[str] = "recon.extraction/1"
    MADE_BY: ClassVar[str] = "recon extract"

    task: str
    layers: tuple[UsedBranch, ...] = Field(description="what is split, and which of its branches was taken")


class JoinedLayer(Record):
    """A split layer, or one whose running statistics are split, and how far its branches were apart."""

    layer: str
    branches: int
    differing: int = Field(description="tensors of which the branches differ")
    largest: float | None = Field(description="largest magnitude of a difference from the first branch")
    relative: float | None = Field(description="largest norm of such a difference, by the norm of the first branch")


class Unsplitting(PlainCheckpoint):
    """What `recon unsplit` did."""

    SCHEMA: ClassVar[str] = "recon.unsplitting/1"
    MADE_BY: ClassVar[str] = "recon unsplit"

    method: Literal["equal", "average", "task"] = Field(
        description="whether the branches were equal, were averaged, or those of one task were taken"
    )
    task: str | None
    averaged: int = Field(
        description="tensors whose branches differed and were averaged; of counters the largest was taken"
    )
    layers: tuple[JoinedLayer, ...] | None = Field(description="null if the branches were not compared")
