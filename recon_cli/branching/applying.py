"""Carrying out a plan that was made before, if its source is still the same."""

from __future__ import annotations

from recon_cli.artifacts.manifest import SourceCheckpoint
from recon_cli.branching.decision import Decision
from recon_cli.branching.identity import metadata_digest
from recon_cli.branching.plan import check_ties, plan_branching
from recon_cli.branching.requests import PlanRequest
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.errors import ReconError, quoted

_AGAIN = "make it again with `recon split --dry-run --json`"


def decide_by_plan(request: PlanRequest, source: CheckpointSource) -> Decision:
    """What a plan says is done to an open checkpoint.

    What can be told without reading the tensors is checked here; :func:`check_content` checks their values.

    :raises ReconError: if the checkpoint is not the one that the plan was made for, or the plan contradicts itself.
    """
    document = request.plan
    planned = {tensor.key: (tensor.dtype, tensor.shape) for tensor in document.tensors}
    found = {tensor.key: (tensor.dtype, tensor.shape) for tensor in source.tensors}
    for key in found | planned:
        if found.get(key) != planned.get(key):
            fault = "is new" if key not in planned else "is gone" if key not in found else "has another type or shape"
            raise _changed(request, f"its tensor {quoted(key)} {fault}")
    if list(found) != list(planned) or document.source.format != source.FORMAT:
        raise _changed(request, "it holds its tensors in another order or format")
    if metadata_digest(source) != document.source.metadata_digest:
        raise _changed(request, "its metadata has changed")
    plan = plan_branching(found, document.layers, document.tasks, statistics=document.statistics)
    check_ties(plan, source.ties)
    if not set(document.parameters) <= set(found):
        raise ReconError("the plan contradicts itself: it names parameters that the checkpoint lacks", _AGAIN)
    for tensor in document.tensors:
        if plan.copies.get(tensor.key) != tensor.copies:
            raise ReconError(
                f"the plan contradicts itself: {quoted(tensor.key)} is not where the split of its layers puts it",
                _AGAIN,
            )
    return Decision(plan, document.batchnorm, document.parameters, document.sizes, document.selection, document.cost)


def check_content(request: PlanRequest, found: SourceCheckpoint) -> None:
    """Refuse a checkpoint whose tensors have other values than when the plan was made.

    :param found: what the checkpoint is now.
    """
    if found.digest != request.plan.source.digest:
        raise _changed(request, "its tensors have other values")


def _changed(request: PlanRequest, what: str) -> ReconError:
    return ReconError(
        f"{quoted(request.checkpoint)} is not the checkpoint that the plan was made for: {what}",
        "make a new plan with `recon split --dry-run --json`",
    )
