"""The networks that are measured, each with its tasks and its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from benchmarks.profile.networks import Encoder, MultiTask, Recommender, ResNetTrunk, SegNet, mlp, pixel_head


@dataclass(frozen=True)
class Case:
    """A network, its tasks and its batch.

    :ivar tasks: the number of tasks.
    :ivar batch: makes the inputs.
    :ivar labels: shape of one task's labels; each is one of 10 classes.
    :ivar memory_only: whether its steps are timed only if it is asked for by name.
    """

    trunk: Callable[[], nn.Module]
    head: Callable[[], nn.Module]
    tasks: int
    batch: Callable[[], torch.Tensor]
    labels: tuple[int, ...]
    memory_only: bool = False

    @property
    def is_long(self) -> bool:
        """Whether steps are repeated as little as possible; the published one takes half a minute with 40 tasks."""
        return self.tasks > 20

    def network(self) -> MultiTask:
        """A network with fresh weights."""
        return MultiTask(self.trunk(), self.head, self.tasks)


def _linear(features: int) -> Callable[[], nn.Module]:
    return partial(nn.Linear, features, 10)


CASES = {
    "resnet18 1x36x36 T=2 B=64": Case(
        partial(ResNetTrunk, 1), _linear(100), 2, partial(torch.randn, 64, 1, 36, 36), (64,)
    ),
    "resnet18 3x64x64 T=9 B=32": Case(
        partial(ResNetTrunk, 3), _linear(100), 9, partial(torch.randn, 32, 3, 64, 64), (32,)
    ),
    "resnet18 3x64x64 T=40 B=32": Case(
        partial(ResNetTrunk, 3), _linear(100), 40, partial(torch.randn, 32, 3, 64, 64), (32,)
    ),
    "mlp 4x1024 T=3 B=1024": Case(partial(mlp, 1024, 4), _linear(1024), 3, partial(torch.randn, 1024, 1024), (1024,)),
    "mlp 4x1024 T=3 B=64": Case(partial(mlp, 1024, 4), _linear(1024), 3, partial(torch.randn, 64, 1024), (64,)),
    "segnet 3x96x128 T=3 B=2": Case(SegNet, pixel_head, 3, partial(torch.randn, 2, 3, 96, 128), (2, 96, 128)),
    "transformer 6x256 T=4 B=16": Case(
        partial(Encoder, 6, 256), _linear(256), 4, partial(torch.randn, 16, 64, 256), (16,)
    ),
    "transformer 12x512 T=8 B=8": Case(
        partial(Encoder, 12, 512), _linear(512), 8, partial(torch.randn, 8, 128, 512), (8,), memory_only=True
    ),
    "recommender 200000x32 T=3 B=1024": Case(
        partial(Recommender, 200_000), _linear(64), 3, partial(torch.randint, 200_000, (1024, 16)), (1024,)
    ),
}


def chosen(words: Sequence[str]) -> list[str]:
    """The names of the cases that have one of the words in them; all without any."""
    return [name for name in CASES if not words or any(word in name for word in words)]
