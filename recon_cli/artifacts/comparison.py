"""What `recon compare-rankings` found."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Document, Record

Matrix = tuple[tuple[float, ...], ...]
OptionalMatrix = tuple[tuple[float | None, ...], ...]


class Chance(Record):
    """What measures come to on average for random orders; the similarity is 0.5 then, and tau and rho are 0."""

    distance: float = Field(description="(L^2 - 1) / 3L of L layers")
    overlap: float = Field(description="k / L")


class Comparison(Document):
    """Rankings against each other; every matrix has a row and a column for each, in the order given."""

    SCHEMA: ClassVar[str] = "recon.comparison/1"
    MADE_BY: ClassVar[str] = "recon compare-rankings"

    rankings: tuple[str, ...] = Field(min_length=1)
    layers: int = Field(description="number of layers compared")
    left_out: tuple[str, ...] = Field(description="layers that not all rankings hold")
    k: int
    distance: Matrix = Field(description="Recon, Eq. 22: mean difference of positions")
    similarity: Matrix = Field(description="share of ordered pairs of layers in the same order")
    overlap: Matrix = Field(description="share of the first k layers that are the same")
    tau: OptionalMatrix = Field(
        default=(),
        description="Kendall's tau-b of the scores, of which equal ones are ties; null where all scores of a ranking "
        "are equal",
    )
    rho: OptionalMatrix = Field(
        default=(),
        description="Spearman's rho of the scores, of which equal ones share the mean of their places; null where all "
        "scores of a ranking are equal",
    )
    overlap_probability: Matrix = Field(
        default=(), description="how probable it is that random orders overlap in as many of the first k layers or more"
    )
    chance: Chance | None = Field(default=None, description="null in documents of Recon before it was there")

    @model_validator(mode="after")
    def _whole(self) -> Comparison:
        size = len(self.rankings)
        always: tuple[OptionalMatrix, ...] = (self.distance, self.similarity, self.overlap)
        added = (matrix for matrix in (self.tau, self.rho, self.overlap_probability) if matrix)
        if any([len(row) for row in matrix] != [size] * size for matrix in (*always, *added)):
            raise ValueError("a matrix has not one row and one column per ranking")
        return self

    @property
    def largest_distance(self) -> float:
        """The largest Eq. 22 distance between any two of the rankings."""
        return max(max(row) for row in self.distance)
