"""The shared checkpoint back, out of a branched one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon_cli.artifacts.difference import Distance
from recon_cli.artifacts.manifest import Split, TensorRecord
from recon_cli.artifacts.plain import JoinedLayer, Unsplitting
from recon_cli.branching.branched import BranchedCheckpoint, open_fitting
from recon_cli.checkpoints.rearranged import Origin, Rearranged
from recon_cli.checkpoints.saving import write_checkpoint
from recon_cli.checkpoints.streaming import digests_of
from recon_cli.checkpoints.tensors import StoredTensor, is_computable, is_fractional
from recon_cli.errors import ReconError, counted, listed, quoted

_COUNTER = "num_batches_tracked"
_NAMED = 5


def unsplit(
    branched: str | Path,
    output: str | Path,
    *,
    average: bool = False,
    task: str | None = None,
    manifest: str | Path | None = None,
    key: str | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
) -> Unsplitting:
    """Write the checkpoint that was split, by its names and in its order; its values, if the branches are still equal.

    What else a training checkpoint holds, such as an optimizer's state, is left out.

    :param branched: a branched checkpoint of any kind, trained or not.
    :param output: a torch file by its ending (.pt, .pth, .bin, .ckpt), else safetensors.
    :param average: take the mean of branches that differ, computed in float64, whatever number of tasks uses each; of
        the counters of BatchNorms (`num_batches_tracked`) the largest. Branches that are equal are kept bit for bit.
    :param task: take the branches that this task uses, without comparing them.
    :param manifest: the manifest's file; without it, the manifest inside the checkpoint.
    :param key: the path of the weights in a torch file that holds more.
    :param shard_size: the bytes of tensors in one file. A larger checkpoint is divided into several, and an index.
    :raises ReconError: if branches differ, and neither `average` nor `task` says what to do, or there is no mean of
        them; naming the file, tensor or task that is wrong. Nothing is written then.
    """
    if average and task is not None:
        raise ReconError("--average and --task contradict each other", "pass one of them")
    branched, manifest = Path(branched), None if manifest is None else Path(manifest)
    with open_fitting(branched, manifest, key) as found:
        if task is not None:
            joined = _Joined(found.of_task(task), None, 0)
        else:
            joined = _join(found, average=average, what=quoted(branched))
        plain = joined.plain
        inputs = [branched, manifest or branched]
        files = write_checkpoint(plain, Path(output), shard_size=shard_size, overwrite=overwrite, inputs=inputs)
    return Unsplitting(
        **found.described(branched, files, plain),
        method="task" if task is not None else "average" if joined.averaged else "equal",
        task=task,
        averaged=joined.averaged,
        layers=joined.layers,
    )


@dataclass(frozen=True)
class _Joined:
    """A checkpoint without branches.

    :ivar layers: how far the branches were apart, if that was looked at.
    :ivar averaged: the number of tensors whose branches differed.
    """

    plain: Rearranged
    layers: tuple[JoinedLayer, ...] | None
    averaged: int


def _join(found: BranchedCheckpoint, *, average: bool, what: str) -> _Joined:
    split = [record for record in found.manifest.tensors if record.copies is not None]
    differing = _differing(found, split)
    splits = found.manifest.splits
    by_layer: dict[str, list[TensorRecord]] = {split.name: [] for split in splits}
    for record in differing:
        by_layer[found.splits[record.key].name].append(record)
    layers = tuple(_joined_layer(found, split, by_layer[split.name]) for split in splits)
    if differing and not average:
        raise _refusal(layers, what)
    _check_means(found, differing)
    averaged = {record.key for record in differing}
    origins = {record.key: _origin(found, record, mean=record.key in averaged) for record in found.manifest.tensors}
    return _Joined(found.rearranged(origins), layers, len(averaged))


def _branches(found: BranchedCheckpoint, record: TensorRecord) -> list[StoredTensor]:
    return [found.places[place] for place in record.places]


def _differing(found: BranchedCheckpoint, split: Iterable[TensorRecord]) -> list[TensorRecord]:
    """The tensors whose branches are not the same bit for bit."""
    split = list(split)
    digests = digests_of(tensor for record in split for tensor in _branches(found, record))
    return [record for record in split if len({digests[tensor.key] for tensor in _branches(found, record)}) > 1]


def _origin(found: BranchedCheckpoint, record: TensorRecord, *, mean: bool) -> Origin:
    origin = found.origin(*record.places)
    if not mean:
        return origin
    from recon_cli.branching import averaging

    return Origin(averaging.mean(_branches(found, record)), origin.keys)


def _check_means(found: BranchedCheckpoint, differing: Iterable[TensorRecord]) -> None:
    """Refuse what has no mean: whole numbers other than counters, and types that torch does not have."""
    without = [
        record
        for record in differing
        if not is_computable(tensor := found.places[record.places[0]])
        or not (is_fractional(tensor.dtype) or _is_counter(record, tensor))
    ]
    if without:
        raise ReconError(
            f"the branches of {counted(len(without), 'tensor')} differ, and their type has no mean: "
            f"{listed(record.key for record in without)}",
            "pass --task to take the branches of one task",
        )


def _is_counter(record: TensorRecord, tensor: StoredTensor) -> bool:
    return record.key.rpartition(".")[2] == _COUNTER and tensor.dtype == "I64"


def _joined_layer(found: BranchedCheckpoint, layer: Split, differing: Sequence[TensorRecord]) -> JoinedLayer:
    # A counter among them would say nothing of how far the weights are apart.
    tensors = [_branches(found, record) for record in differing]
    numbers = [branches for branches in tensors if is_fractional(branches[0].dtype) and is_computable(branches[0])]
    distances = [_distances(numbers, number) for number in range(1, len(layer.branches))] if numbers else []
    return JoinedLayer(
        layer=layer.name,
        branches=len(layer.branches),
        differing=len(differing),
        largest=_largest([distance.largest for branch in distances for distance in branch]),
        relative=_largest([_relative(branch) for branch in distances]),
    )


def _distances(tensors: Iterable[Sequence[StoredTensor]], number: int) -> list[Distance]:
    """How far one branch of some tensors is from the first."""
    from recon_cli.checkpoints.distance import distance

    return [distance(branches[0], branches[number]) for branches in tensors]


def _relative(distances: Sequence[Distance]) -> float | None:
    """The norm of a layer's differences by the norm of its first branch; None if there is no such number."""
    if any(distance.norm is None or distance.norm_a is None or distance.non_finite for distance in distances):
        return None
    whole = math.hypot(*(distance.norm_a or 0.0 for distance in distances))
    return math.hypot(*(distance.norm or 0.0 for distance in distances)) / whole if whole else None


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _refusal(layers: Iterable[JoinedLayer], what: str) -> ReconError:
    differing = sorted((layer for layer in layers if layer.differing), key=_size, reverse=True)
    named = "; ".join(_told(layer) for layer in differing[:_NAMED])
    more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    return ReconError(
        f"the branches of {counted(len(differing), 'layer')} of {what} differ: {named}{more}",
        "pass --average for the mean of the branches, or --task for those of one task",
    )


def _size(layer: JoinedLayer) -> float:
    return math.inf if layer.relative is None else layer.relative


def _told(layer: JoinedLayer) -> str:
    parts = [
        *([] if layer.largest is None else [f"by up to {layer.largest:.3g}"]),
        *([] if layer.relative is None else [f"{100 * layer.relative:.3g}% of its norm"]),
    ]
    return quoted(layer.layer) + (f" ({', '.join(parts)})" if parts else "")
