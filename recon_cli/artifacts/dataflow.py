"""The data flow of a network: which of its operations depends on which, on which tensors, and what they cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Record

Index = Annotated[int, Field(ge=0)]


class Operation(Record):
    """One operation of a forward pass, or several that always run together."""

    flops: int = Field(ge=0, description="floating-point operations, as torch counts them")
    inputs: tuple[Index, ...] = Field(
        description="positions of the earlier operations on whose results it depends, but for those at which streams "
        "never part further than at another one of them"
    )
    reads: tuple[str, ...] = Field(description="tensors of the state dict that it reads, a tied one by its first name")
    moves: tuple[str, ...] = Field(description="buffers of the state dict that it writes to")
    tasks: tuple[Index, ...] = Field(
        description="positions of the tasks whose outputs depend on it, or in whose streams it moves buffers"
    )


class Dataflow(Record):
    """What was seen of a forward pass on one batch; operations that cost and read nothing are left out."""

    tasks: tuple[str, ...]
    operations: tuple[Operation, ...] = Field(description="in the order in which they ran")

    @model_validator(mode="after")
    def _consistent(self) -> Dataflow:
        for position, operation in enumerate(self.operations):
            if any(index >= position for index in operation.inputs):
                raise ValueError(f"the operation {position} depends on a later one")
            if any(index >= len(self.tasks) for index in operation.tasks):
                raise ValueError(f"the operation {position} belongs to a task that is not there")
        return self
