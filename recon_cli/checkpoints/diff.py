"""What differs between two checkpoints of any formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from recon_cli.artifacts.difference import CheckpointDifference, Distance, Form, TensorDifference
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.prefixes import Unprefixed, wrapper_prefix
from recon_cli.checkpoints.streaming import digests_of
from recon_cli.checkpoints.tensors import StoredTensor, is_computable


def diff(a: str | Path, b: str | Path, *, key_a: str | None = None, key_b: str | None = None) -> CheckpointDifference:
    """Compare two checkpoints tensor by tensor: names, types, shapes and values.

    Tensors that are the same bit for bit are found by their digests; of the others, a piece at a time is read. Where
    a wrapper has put something before all names of one checkpoint, such as `module.`, it is passed over.

    :param key_a: the path of the weights in the first file, if it holds more.
    :raises ReconError: if a file cannot be read.
    """
    with open_checkpoint(Path(a), key_a) as source_a, open_checkpoint(Path(b), key_b) as source_b:
        prefixes = [wrapper_prefix([tensor.key for tensor in source.tensors]) for source in (source_a, source_b)]
        if prefixes[0] == prefixes[1]:
            prefixes = ["", ""]
        first = {tensor.key: tensor for tensor in Unprefixed(source_a, prefixes[0]).tensors}
        second = {tensor.key: tensor for tensor in Unprefixed(source_b, prefixes[1]).tensors}
        common = [key for key in first if key in second]
        alike = [key for key in common if _form(first[key]) == _form(second[key])]
        digests = [digests_of(tensors[key] for key in alike) for tensors in (first, second)]
        differing = [key for key in alike if digests[0][key] != digests[1][key]]
        formed = [key for key in common if _form(first[key]) != _form(second[key])]
        forms = [_difference(first[key], second[key]) for key in formed]
        values = sorted((_difference(first[key], second[key]) for key in differing), key=_order)
        for source in (source_a, source_b):
            source.check_unchanged()
    only_a, only_b = _only(first, second), _only(second, first)
    return CheckpointDifference(
        a=str(a),
        b=str(b),
        prefix_a=prefixes[0],
        prefix_b=prefixes[1],
        equal=not (only_a or only_b or forms or values),
        same=len(alike) - len(differing),
        only_a=only_a,
        only_b=only_b,
        forms=tuple(forms),
        values=tuple(values),
    )


def _only(tensors: Mapping[str, StoredTensor], others: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    return tuple(key for key in tensors if key not in others)


def _form(tensor: StoredTensor) -> Form:
    return Form(dtype=tensor.dtype, shape=tensor.shape)


def _difference(a: StoredTensor, b: StoredTensor) -> TensorDifference:
    return TensorDifference(key=a.key, a=_form(a), b=_form(b), distance=_distance(a, b))


def _distance(a: StoredTensor, b: StoredTensor) -> Distance | None:
    if a.shape != b.shape or not (is_computable(a) and is_computable(b)):
        return None
    from recon_cli.checkpoints.distance import distance

    return distance(a, b)


def _order(difference: TensorDifference) -> float:
    """Falls with the relative distance; what is not finite, or differs from nothing but zeros, comes first."""
    found = difference.distance
    if found is None or found.non_finite or found.relative is None:
        return -math.inf
    return -found.relative
