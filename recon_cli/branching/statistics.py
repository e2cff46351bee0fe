"""Running statistics of layers that stay shared behind a split, such as a BatchNorm's: a set for every stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.manifest import Branch, SplitLayer, SplitStatistics
from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.streams import statistics_apart
from recon_cli.grouping.partitions import Partition
from recon_cli.layers.names import RUNNING_STATISTICS, layer_of
from recon_cli.tasks import branch_ids


def own_statistics(
    flow: Dataflow, layers: Sequence[SplitLayer], keys: Iterable[str], ties: Mapping[str, str] | None = None
) -> tuple[SplitStatistics, ...]:
    """The statistics that every stream is to have its own of when layers are split, in the order of a state dict.

    Tasks whose streams have not parted have one set together, which bears the id of the first of them.

    :param flow: of the network before its split.
    :param keys: the names of the state dict's tensors.
    :param ties: for a name of a tensor that has an earlier one, that one.
    """
    ties = ties or {}
    apart = statistics_apart(flow, layers)
    moved = {key for operation in flow.operations for key in operation.moves if layer_of(key) in apart}
    buffers: dict[str, list[str]] = {}
    for key in keys:
        first = ties.get(key, key)
        if first in moved:
            buffers.setdefault(layer_of(first), []).append(key)
    return tuple(
        SplitStatistics(name=layer, branches=_branches(flow.tasks, apart[layer]), buffers=tuple(own))
        for layer, own in buffers.items()
    )


def _branches(tasks: Sequence[str], partition: Partition) -> tuple[Branch, ...]:
    ids = branch_ids(tasks)
    groups: dict[int, list[str]] = {}
    for task, first in zip(tasks, partition, strict=True):
        groups.setdefault(first, []).append(task)
    return tuple(Branch(id=ids[first], tasks=tuple(group)) for first, group in groups.items())


def layers_in_doubt(plan: BranchingPlan) -> tuple[str, ...]:
    """The unsplit layers with running statistics, some of which may lie behind a split layer."""
    kept = (key for key in plan.places if key not in plan.copies)
    return tuple(dict.fromkeys(layer_of(key) for key in kept if key.rpartition(".")[2] in RUNNING_STATISTICS))
