"""Which update rules there are."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from recon_cli.artifacts.document import Document, Record


class ListedParameter(Record):
    """A parameter of an update rule."""

    name: str
    description: str
    default: float | str
    choices: tuple[str, ...] = Field(description="the values that it may have; empty: any number within its bounds")
    bounds: str | None = Field(description="what a number has to be, such as `> 0`")


class ListedMethod(Record):
    """An update rule."""

    name: str
    title: str
    kind: str = Field(description="manipulation of gradients, balancing of losses, or regularisation")
    needs: tuple[str, ...] = Field(
        description="losses, gram (inner products of gradients), gradients, rotations (of a feature), second "
        "derivatives, new losses (after the step), epochs"
    )
    cost: str = Field(description="of a step, beside that of joint training")
    published: str = Field(description="the size of the update as published")
    exception: str | None = Field(
        description="where it depends on the size of all gradients or losses, or on the order"
    )
    paper: str
    parameters: tuple[ListedParameter, ...]


class Methods(Document):
    """All update rules."""

    SCHEMA: ClassVar[str] = "recon.methods/1"
    MADE_BY: ClassVar[str] = "recon methods --json"

    methods: tuple[ListedMethod, ...]
