"""What a split would do, or did, as the documents say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recon_cli._version import __version__
from recon_cli.artifacts.manifest import (
    BranchedProgram,
    CarriedEntry,
    PlannedOutput,
    PlannedSource,
    SourceCheckpoint,
    SplitPlan,
)
from recon_cli.artifacts.versions import Versions
from recon_cli.branching.decision import Decision
from recon_cli.branching.identity import metadata_digest
from recon_cli.branching.plan import BranchingPlan
from recon_cli.checkpoints.tensors import CheckpointSource, TensorInfo


def plan_document(
    source: CheckpointSource,
    identity: SourceCheckpoint,
    decision: Decision,
    entries: tuple[CarriedEntry, ...],
    output: PlannedOutput,
) -> SplitPlan:
    """What would be done, and to which checkpoint."""
    return SplitPlan.model_validate(
        {
            **_common(decision),
            "tensors": tuple(_fields(tensor, decision.plan) for tensor in source.tensors),
            "parameters": decision.parameters,
            "entries": entries,
            "source": PlannedSource(**identity.model_dump(), metadata_digest=metadata_digest(source)),
            "output": output,
        }
    )


def manifest_fields(
    source: CheckpointSource,
    identity: SourceCheckpoint,
    digests: Mapping[str, str],
    decision: Decision,
    entries: tuple[CarriedEntry, ...],
    program: BranchedProgram | None,
) -> dict[str, Any]:
    """The fields of the manifest: what was done, and to which checkpoint.

    :param digests: the digests of the source's tensors.
    :param entries: what became of all that lies beside them.
    :param program: how the branched program computes; None if it is a file of weights.
    """
    records = tuple(_fields(tensor, decision.plan) for tensor in source.tensors)
    for record in records:
        record["digest"] = digests[record["key"]]
    return {
        **_common(decision),
        "tensors": records,
        "entries": entries,
        "program": program,
        "source": identity,
        "versions": Versions(recon=__version__),
    }


def _common(decision: Decision) -> dict[str, Any]:
    plan = decision.plan
    return {
        "tasks": plan.tasks,
        "batchnorm": decision.batchnorm,
        "layers": plan.layers,
        "statistics": plan.statistics,
        "sizes": decision.sizes,
        "cost": decision.cost,
        "selection": decision.selection,
    }


def _fields(tensor: TensorInfo, plan: BranchingPlan) -> dict[str, Any]:
    # Plain data: to check a hundred thousand tensors one by one would take a second.
    return {"key": tensor.key, "dtype": tensor.dtype, "shape": tensor.shape, "copies": plan.copies.get(tensor.key)}
