"""Writes the JSON schemas of all documents into docs/schemas: `make schemas`."""

from __future__ import annotations

import json
from pathlib import Path

from recon_cli.artifacts.comparison import Comparison
from recon_cli.artifacts.conflict_comparison import ConflictComparison
from recon_cli.artifacts.difference import CheckpointDifference
from recon_cli.artifacts.document import Document
from recon_cli.artifacts.inspection import Inspection
from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.artifacts.methods import Methods
from recon_cli.artifacts.plain import Extraction, Unsplitting
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.result_comparison import ResultComparison
from recon_cli.artifacts.run import Ledger, RunReport
from recon_cli.artifacts.scores import Scores
from recon_cli.artifacts.search import SearchResult
from recon_cli.artifacts.tasks import TaskRelations
from recon_cli.artifacts.tradeoff import Tradeoff
from recon_cli.artifacts.training import Results, Training
from recon_cli.artifacts.verification import Verification

KINDS: tuple[type[Document], ...] = (
    Scores, Ranking, Comparison, Manifest, SplitPlan, Verification, Inspection, Extraction, Unsplitting,
    CheckpointDifference, Methods, ConflictComparison, Training, Results, ResultComparison, RunReport, Ledger,
    TaskRelations, Tradeoff, SearchResult,
)  # fmt: skip


def schema_path(kind: type[Document]) -> Path:
    """Where the schema of a kind of document is published."""
    return Path(__file__).parent / "schemas" / f"{kind.SCHEMA.replace('/', '.')}.schema.json"


def schema_text(kind: type[Document]) -> str:
    """The JSON schema of a kind of document."""
    schema = kind.model_json_schema(mode="serialization")
    schema["properties"] = {"schema": {"const": kind.SCHEMA}, **schema["properties"]}
    schema["required"] = ["schema", *schema["required"]]
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


if __name__ == "__main__":
    for kind in KINDS:
        schema_path(kind).write_text(schema_text(kind))
