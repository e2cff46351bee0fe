"""What `recon diff` found."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from recon_cli.artifacts.document import Document, Record


class Distance(Record):
    """How far two tensors are apart; norms are Euclidean, in float64, and null where that is too small for them."""

    norm_a: float | None = Field(description="norm of the finite elements of the first tensor")
    norm_b: float | None = Field(description="norm of the finite elements of the second tensor")
    norm: float | None = Field(description="norm of the difference, over the elements that are finite in both")
    largest: float | None = Field(description="largest magnitude of an element of the difference")
    elements: int = Field(description="elements that differ")
    non_finite: int = Field(description="those among them that are NaN or infinite in one tensor or both")

    @property
    def relative(self) -> float | None:
        """The norm of the difference by the norm of the first tensor; None if there is no such number."""
        return self.norm / self.norm_a if self.norm is not None and self.norm_a else None


class Form(Record):
    """Type and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


class TensorDifference(Record):
    """A tensor of which the checkpoints hold different forms or values."""

    key: str
    a: Form
    b: Form
    distance: Distance | None = Field(description="null if the shapes differ, or torch does not have the type")


class CheckpointDifference(Document):
    """Two checkpoints against each other, tensor by tensor."""

    SCHEMA: ClassVar[str] = "recon.difference/1"
    MADE_BY: ClassVar[str] = "recon diff"

    a: str
    b: str
    prefix_a: str = Field(description="what the names of the first begin with, and is passed over")
    prefix_b: str = Field(description="what the names of the second begin with, and is passed over")
    equal: bool = Field(description="whether nothing differs")
    same: int = Field(description="tensors that are the same bit for bit")
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    forms: tuple[TensorDifference, ...] = Field(description="tensors of another type or shape, by their order in a")
    values: tuple[TensorDifference, ...] = Field(description="tensors of other values, the most different first")
