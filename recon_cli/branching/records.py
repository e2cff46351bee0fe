"""What a split would do, or did, as the documents say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recon_cli._version import __version__
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.manifest import (
    Manifest,
    PlannedTensor,
    Selection,
    Size,
    Sizes,
    SourceCheckpoint,
    SplitPlan,
    TensorRecord,
)
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.versions import Versions
from recon_cli.branching.parameters import ParameterTable, count, count_bytes
from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.requests import SelectionRequest
from recon_cli.checkpoints.tensors import CheckpointSource, TensorInfo


def plan_document(source: CheckpointSource, plan: BranchingPlan, sizes: Sizes, selection: Selection) -> SplitPlan:
    """What would be done, without what is known only from the tensors' values."""
    return SplitPlan(
        tasks=plan.tasks,
        layers=plan.layers,
        tensors=tuple(PlannedTensor(**_fields(tensor, plan)) for tensor in source.tensors),
        sizes=sizes,
        selection=selection,
    )


def manifest_of(
    source: CheckpointSource,
    name: str,
    digests: Mapping[str, str],
    plan: BranchingPlan,
    sizes: Sizes,
    selection: Selection,
) -> Manifest:
    """What was done, with the digest of every tensor.

    :param name: the file name of the source.
    :param digests: the digests of its tensors.
    """
    lines = [f"{t.key}\0{t.dtype}\0{list(t.shape)}\0{digests[t.key]}\n" for t in source.tensors]
    return Manifest(
        tasks=plan.tasks,
        batchnorm="shared",
        layers=plan.layers,
        tensors=tuple(TensorRecord(**_fields(t, plan), digest=digests[t.key]) for t in source.tensors),
        sizes=sizes,
        source=SourceCheckpoint(
            name=name,
            format=source.FORMAT,
            digest=digest_bytes("".join(sorted(lines)).encode()),
        ),
        selection=selection,
        versions=Versions(recon=__version__),
    )


def selection_record(wish: SelectionRequest, ranking: Ranking | None) -> Selection:
    """How the layers were chosen."""
    return Selection(
        policy=wish.policy,
        argument=wish.argument,
        granularity=wish.granularity,
        seed=wish.drawn_with,
        ranking_digest=None if ranking is None else digest_bytes(ranking.to_bytes()),
    )


def sizes_of(
    parameters: ParameterTable, plan: BranchingPlan, ranking: Ranking | None, wanted_parameters: int | None
) -> Sizes:
    """The checkpoint's size before and after the split.

    :param wanted_parameters: how many parameters the policy was to choose, if it matches a number.
    """
    own, tensors = parameters.all(), parameters.tensors.values()
    times = {key: len(places) for key, places in plan.places.items()}
    shared = None
    if ranking:
        ranked = (name for layer in ranking.layers for name in (layer.name, *layer.aliases))
        shared = count(parameters.of_layers(ranked))
    return Sizes(
        before=Size(
            parameters=count(own),
            parameter_bytes=count_bytes(own),
            tensors=len(tensors),
            tensor_bytes=count_bytes(tensors),
        ),
        after=Size(
            parameters=sum(t.size * times[t.key] for t in own),
            parameter_bytes=sum(t.bytes * times[t.key] for t in own),
            tensors=sum(times.values()),
            tensor_bytes=sum(t.bytes * times[t.key] for t in tensors),
        ),
        split_parameters=count(parameters.among(plan.copies)),
        shared_parameters=shared,
        wanted_parameters=wanted_parameters,
    )


def _fields(tensor: TensorInfo, plan: BranchingPlan) -> dict[str, Any]:
    copies = plan.copies.get(tensor.key)
    return {
        "key": tensor.key,
        "dtype": tensor.dtype,
        "shape": tensor.shape,
        "copies": None if copies is None else dict(copies),
    }
