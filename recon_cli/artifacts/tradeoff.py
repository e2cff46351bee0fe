"""How much conflict can be removed for how many parameters and operations."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from recon_cli.artifacts.document import Document, Record


class SplitCost(Record):
    """What a split removes and costs."""

    removed: float = Field(ge=0, description="share of the conflict that the ranking found")
    layers: int = Field(ge=0, description="how many are split")
    copies: int = Field(ge=1, description="the most copies that a layer has")
    parameters: int = Field(ge=0, description="those that the copies add")
    operations: float | None = Field(
        ge=1, description="of a forward pass, relative to the shared network; null if its data flow is not known"
    )


class Within(Record):
    """The split that removes the most conflict within limits."""

    max_parameters: float | None = Field(
        description="what the copies may add, as a share of the parameters of all ranked layers; null if not limited"
    )
    max_operations: float | None = Field(
        description="what a forward pass may cost, relative to the shared network; null if not limited"
    )
    split: SplitCost


class Published(Record):
    """The first K layers of the ranking, with a copy for every task, as published."""

    k: int = Field(ge=1)
    split: SplitCost
    instead: SplitCost = Field(description="what removes the most conflict for no more parameters and operations")


class Tradeoff(Document):
    """How much conflict can be removed for how many parameters and operations."""

    SCHEMA: ClassVar[str] = "recon.tradeoff/1"
    MADE_BY: ClassVar[str] = "recon tradeoff"

    tasks: tuple[str, ...]
    ranking_digest: str = Field(description="SHA-256 of the ranking document")
    max_groups: int | None = Field(ge=2, description="how many copies a layer may have; null for one for every task")
    conflict: float = Field(gt=0, description="what the ranking found: its score, over all layers and pairs of tasks")
    parameters: int = Field(ge=1, description="of all ranked layers")
    within: tuple[Within, ...] = Field(description="by rising limits of the operations, then of the parameters")
    published: tuple[Published, ...]
