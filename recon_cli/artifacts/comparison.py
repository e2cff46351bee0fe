"""What `recon compare-rankings` found."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from recon_cli.artifacts.document import Document

Matrix = tuple[tuple[float, ...], ...]


class Comparison(Document):
    """Rankings against each other; every matrix has a row and a column for each, in the order given."""

    SCHEMA: ClassVar[str] = "recon.comparison/1"
    MADE_BY: ClassVar[str] = "recon compare-rankings"

    rankings: tuple[str, ...]
    layers: int = Field(description="number of layers compared")
    left_out: tuple[str, ...] = Field(description="layers that not all rankings hold")
    k: int
    distance: Matrix = Field(description="Recon, Eq. 22: mean difference of positions")
    similarity: Matrix = Field(description="share of ordered pairs of layers in the same order")
    overlap: Matrix = Field(description="share of the first k layers that are the same")

    @property
    def largest_distance(self) -> float:
        """The largest Eq. 22 distance between any two of the rankings."""
        return max(max(row) for row in self.distance)
