"""How a training step makes one update of the gradients of all tasks: an update rule, and what it sees."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from recon_cli.artifacts.document import Record


class Method(Record):
    """An update rule, as a config names it under `method`, and what it is applied to.

    :ivar name: of the rule; `recon methods` lists them.
    :ivar parameters: the rule's parameters that are not to be the defaults.
    :ivar scale: the size of the update: `mean`, one for all rules, or as `published`.
    :ivar per: whether one rule sees the gradients of all shared layers as one vector, as published, or each layer has
        its own.
    :ivar groups: patterns of layer names instead: each group of layers has its own rule, and so has the rest together.
    :ivar layers: patterns of the layers whose gradients are looked at; the update is of all of them.
    :ivar feature: the name of a module whose output Z all tasks share: the rule sees the gradients dL_i/dZ instead
        (MGDA-UB, Aligned-MTL-UB), and there is one backward pass through the trunk behind it.
    """

    name: str = "joint"
    parameters: dict[str, Any] = Field(default_factory=dict)
    scale: Literal["mean", "published"] = "mean"
    per: Literal["trunk", "layer"] = "trunk"
    groups: list[list[str]] = Field(default_factory=list)
    layers: list[str] = Field(default_factory=lambda: ["*"])
    feature: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _as_listed(cls, value: str) -> str:
        # The papers' spelling, and Python's.
        return value.lower().replace("_", "-")

    @model_validator(mode="after")
    def _one_way(self) -> Method:
        if self.groups and self.per == "layer":
            raise ValueError("`groups` and `per: layer` contradict each other; give one of them")
        if self.layers != ["*"] and (self.groups or self.per == "layer"):
            raise ValueError("`layers` are those that one rule for all of them looks at; leave it or the groups out")
        if self.feature is not None and (self.groups or self.per == "layer" or self.layers != ["*"]):
            raise ValueError("with a `feature` one rule sees the gradients of this alone; leave out the layers")
        if not self.layers:
            raise ValueError("`layers` names no layer whose gradients are looked at")
        if any(not group for group in self.groups):
            raise ValueError("a group in `groups` names no layer")
        return self


def describe(method: Method) -> str:
    """A method in one line: the rule, and what is not as it is by default."""
    settings = {name: value for name, value in method.model_dump(exclude_defaults=True).items() if name != "name"}
    parameters = settings.pop("parameters", {})
    return ", ".join([method.name, *(f"{name} {value}" for name, value in {**parameters, **settings}.items())])


JOINT = Method()
"""Joint training: the gradient of the mean of the losses."""
