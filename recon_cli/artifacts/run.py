"""What `recon run` found, and what it remembers of its steps."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from recon_cli.artifacts.conflict_comparison import ConflictComparison
from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.method import Method
from recon_cli.artifacts.result_comparison import ResultComparison
from recon_cli.artifacts.training import Statistic

Ratio = Annotated[float, Field(ge=0)]


class Split(Record):
    """The layers that were split because of their conflicts."""

    layers: tuple[str, ...] = Field(description="in the network's order")
    parameters_before: int
    parameters_after: int
    cost: Ratio | None = Field(description="operations relative to those of the network as it is; null if not known")


class Answer(Record):
    """What splitting did to the networks of one update rule."""

    method: Method
    shared: str = Field(description="the run that is compared with")
    branched: str
    improvement: Statistic | None = Field(
        description="of the branched network over the shared one, in percent: above 0 is better; null if not known"
    )
    bytes_ratio: Ratio
    operations_ratio: Ratio | None
    seconds_ratio: Ratio | None


class RunReport(Document):
    """What a whole run came to: did it help, by how much, at what cost."""

    SCHEMA: ClassVar[str] = "recon.run/1"
    MADE_BY: ClassVar[str] = "recon run"

    tasks: tuple[str, ...]
    severity: float
    split: Split
    answers: tuple[Answer, ...] = Field(description="one for each update rule")
    results: ResultComparison
    conflicts: ConflictComparison | None = Field(description="null where the trainings measured none")


class LedgerEntry(Record):
    """A step that was begun."""

    inputs: str = Field(description="digest of what it takes")
    outputs: dict[str, str] | None = Field(description="file -> digest; null until the step is done")


class Ledger(Document):
    """What `recon run` remembers of its steps."""

    SCHEMA: ClassVar[str] = "recon.ledger/1"
    MADE_BY: ClassVar[str] = "recon run"

    steps: dict[str, LedgerEntry]
