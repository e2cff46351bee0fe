"""The two halves of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.batches import Batch

HINT = "leave out `halves_every` under `profile`, or let batches be of tensors whose first dimension is the items'"


@dataclass(frozen=True)
class Half:
    """The inputs of some items of a batch, and their labels by the indices of the tasks."""

    batch: Batch
    labels: Mapping[int, Any]


def halved(batch: Batch, labels: Mapping[int, Any]) -> tuple[Half, Half] | None:
    """The first and the second half of the items of a batch, of equally many; of an odd number the last is left out.

    All tensors are cut along their first dimension, which is the items', and so are lists of one text for each item;
    single numbers and texts, and tensors without a dimension, belong to both halves.

    :param labels: of the tasks that have one, by their indices; they are cut as the inputs are.
    :returns: None if there are not two items.
    :raises ReconError: if the tensors have not one first dimension in common, or there is something of another kind.
    """
    items = next((len(tensor) for tensor in _tensors(batch.inputs) if tensor.dim()), None)
    if items is None:
        raise ReconError(
            f"a batch cannot be halved: its inputs, a {quoted(type(batch.inputs).__name__)}, hold no tensor of items",
            HINT,
        )
    half = items // 2
    first, second = (
        Half(
            Batch(_part(batch.inputs, items, part, "the inputs"), None),
            {index: _part(label, items, part, "the labels") for index, label in labels.items()},
        )
        for part in (slice(half), slice(half, 2 * half))
    )
    return (first, second) if half else None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _part(value: Any, items: int, part: slice, what: str) -> Any:
    """:param what: what the value belongs to, as messages name it."""
    if isinstance(value, torch.Tensor):
        if value.dim() and len(value) != items:
            raise ReconError(
                f"a batch cannot be halved: {what} hold a tensor of shape {tuple(value.shape)}, not of {items} items",
                HINT,
            )
        # A network may write into its inputs.
        return value[part].clone() if value.dim() else value
    if isinstance(value, Mapping):
        return {key: _part(each, items, part, what) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        if len(value) == items and all(isinstance(each, str) for each in value):
            return value[part]
        parts = [_part(each, items, part, what) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ReconError(f"a batch cannot be halved: {what} hold a {quoted(type(value).__name__)}", HINT)
