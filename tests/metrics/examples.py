"""Outputs and labels for every metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Pair = tuple[torch.Tensor, torch.Tensor]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_class_each(items: int, seed: int) -> Pair:
    generator = random(seed)
    return torch.randn(items, 4, generator=generator), torch.randint(4, (items,), generator=generator)


def segments(items: int, seed: int) -> Pair:
    """Class 4 of 5 is never there, and a fifth of the labels is -1."""
    generator = random(seed)
    logits = torch.randn(items, 5, 3, 4, generator=generator)
    logits[:, 4] = -10
    return logits, torch.randint(-1, 4, (items, 3, 4), generator=generator)


def binary(items: int, seed: int) -> Pair:
    """Few different scores, so that many are tied."""
    scores = torch.randint(-3, 4, (items,), generator=random(seed)) / 2
    return scores, (torch.arange(items) + seed) % 2


def depths(items: int, seed: int) -> Pair:
    """A quarter of the labels is zero, and one is not finite."""
    generator = random(seed)
    label = 10 * torch.rand(items, 1, 3, 4, generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.25] = 0
    label[0, 0, 0, 0] = torch.inf
    return label.nan_to_num(posinf=1.0) + torch.randn(label.shape, generator=generator), label


def normals(items: int, seed: int) -> Pair:
    """Pixels of one column have no label."""
    generator = random(seed)
    label = torch.randn(items, 3, 3, 4, generator=generator)
    label[..., 0] = 0
    return label + torch.randn(label.shape, generator=generator), label


@dataclass(frozen=True)
class Example:
    """A metric, and data for it by the number of items and a seed."""

    name: str
    data: Callable[[int, int], Pair]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.kwargs.values())])


EXAMPLES = (
    Example("accuracy", one_class_each),
    Example("accuracy", binary, {"ignore": 7}),
    Example("pixel_accuracy", segments),
    Example("miou", segments, {"classes": 5}),
    Example("f1", binary),
    Example("f1", segments, {"average": "macro", "classes": 5, "ignore": -1}),
    Example("auc", binary),
    Example("abs_error", depths),
    Example("abs_error", depths, {"ignore": None}),
    Example("rel_error", depths),
    Example("angle_mean", normals),
    Example("angle_median", normals),
    Example("angle_within", normals, {"degrees": 30}),
)
