"""What computes the gradients of all tasks: of a whole network, or of one that is sharded over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from recon_cli.gradients.engine import GramEngine, LayerGrams, ParameterUpdate
from recon_cli.gradients.routes.route import ParameterWeights
from recon_cli.layers.discovery import Layer


class Engine(Protocol):
    """Makes the backward passes of a step, and an update of the gradients; see `GramEngine` and `ShardedEngine`."""

    def watch(self, *, features: bool = True) -> None:
        """Note what the backward passes need of the forward pass to come."""

    def unwatch(self) -> None:
        """Note nothing any more; what was noted is kept for the backward passes."""

    def backward(
        self, losses: Sequence[torch.Tensor | None], weights: torch.Tensor | None = None, *, accumulate: bool = False
    ) -> LayerGrams:
        """One backward pass for each loss; with weights, fill `.grad` of every parameter with sum_i w_i g_i."""

    def combine(self, weights: torch.Tensor | ParameterWeights, *, accumulate: bool = False) -> None:
        """Fill `.grad` of every parameter with sum_i w_i g_i, from what `backward` without weights left."""

    def combine_rows(self, update: ParameterUpdate, *, accumulate: bool = False) -> None:
        """Fill `.grad` of every parameter with an update made of its gradients."""


def make_engine(
    model: nn.Module,
    layers: Sequence[Layer],
    limit: int | None,
    features: Sequence[str],
    *,
    whole: bool = False,
    sharded: bool = False,
) -> Engine:
    """The engine for a network; see `GramEngine`.

    :param sharded: whether the network is sharded over the ranks; it has no limit and no features then.
    """
    if not sharded:
        return GramEngine(model, layers, limit, features, whole=whole)
    # PyTorch's part for it takes a second to import.
    from recon_cli.gradients.sharded import ShardedEngine

    return ShardedEngine(model, layers)
