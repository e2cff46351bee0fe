"""The Gram matrices of the task gradients of a network whose parameters are sharded over the ranks (FSDP2).

A backward pass through such a network leaves each rank its shard of the gradient's mean over the ranks. So one task
after the other has a pass of its own, each rank keeps the shards, and the inner products of the gradients are the sums
of those of the shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.engine import LayerGrams, ParameterUpdate
from recon_cli.gradients.features import FeatureGrams
from recon_cli.gradients.graph import several_passes
from recon_cli.gradients.products import inner_products
from recon_cli.gradients.routes.route import ParameterWeights, fill, pick
from recon_cli.layers.discovery import Layer


@dataclass(frozen=True)
class _Rows:
    """The gradients of one parameter.

    :ivar tasks: the tasks that have one, n of them.
    :ivar gradients: theirs, each a shard here.
    """

    parameter: nn.Parameter
    tasks: list[int]
    gradients: list[DTensor]

    @property
    def own(self) -> torch.Tensor:
        """This rank's shards, [n, size]."""
        return torch.stack([gradient.to_local().flatten() for gradient in self.gradients])

    @property
    def whole(self) -> torch.Tensor:
        """The gradients of all entries, [n, size], gathered from the ranks."""
        return torch.stack([gradient.full_tensor().flatten() for gradient in self.gradients])


class ShardedEngine:
    """Computes what `GramEngine` does, of a network that `fully_shard` has sharded.

    A layer that has but zeros for a gradient counts as not reached: sharding itself gives zeros where there is none.

    :param model: the network.
    :param layers: the layers whose Gram matrices are wanted, L of them. Other parameters only get a gradient.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._layer_of = {id(p): index for index, layer in enumerate(layers) for p in layer.parameters.values()}
        self._size = len(layers)
        self._held: list[_Rows] = []

    def watch(self, *, features: bool = True) -> None:
        """Nothing has to be noted of the forward pass."""

    def unwatch(self) -> None:
        """Nothing was noted."""

    def backward(
        self, losses: Sequence[torch.Tensor | None], weights: torch.Tensor | None = None, *, accumulate: bool = False
    ) -> LayerGrams:
        """One backward pass for each loss; the graph is freed with the last. All ranks make the same passes.

        :param losses: T scalars of one graph; none is None, as no rank can go without a pass that others make.
        :param weights: as `GramEngine` takes them.
        :param accumulate: whether to add to the gradients that are there, as `backward()` does.
        """
        before = [parameter.grad for parameter in self._parameters]
        with several_passes():
            found = [self._gradients(loss, is_last=task == len(losses) - 1) for task, loss in enumerate(losses)]
        for parameter, gradient in zip(self._parameters, before, strict=True):
            parameter.grad = gradient if accumulate or weights is None else None
        self._held = list(_by_parameter(self._parameters, found))
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            grams = self._multiply(len(losses))
        if weights is not None:
            self.combine(weights, accumulate=accumulate)
        return grams

    def combine(self, weights: torch.Tensor | ParameterWeights, *, accumulate: bool = False) -> None:
        """Fill `.grad` of every parameter with its shard of sum_i w_i g_i, from what `backward` left.

        :param weights: [T], or what gives them for a parameter.
        :param accumulate: whether to add to the gradients that are there, as `backward()` does.
        """
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            for rows in self._held:
                found = weights(rows.parameter) if callable(weights) else weights.to(self._device)
                own = rows.own
                # Weights may be anything, and would not all be numbers in half precision.
                precise = torch.promote_types(own.dtype, torch.float32)
                total = (pick(found, rows.tasks).to(precise) @ own.to(precise)).to(own.dtype)
                _fill(rows, total, accumulate=accumulate)
        self._held = []

    def combine_rows(self, update: ParameterUpdate, *, accumulate: bool = False) -> None:
        """Fill `.grad` of every parameter with its shard of an update made of its task gradients.

        Each parameter's gradients are gathered for it, one parameter after the other, so that random numbers are drawn
        for the same entries on all ranks.

        :param accumulate: whether to add to the gradients that are there, as `backward()` does.
        """
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            for rows in self._held:
                like = rows.gradients[0]
                whole = update(rows.parameter, rows.whole, rows.tasks).view(like.shape)
                own = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
                _fill(rows, own.to_local().flatten(), accumulate=accumulate)
        self._held = []

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device

    def _gradients(self, loss: torch.Tensor | None, *, is_last: bool) -> list[torch.Tensor | None]:
        assert loss is not None
        for parameter in self._parameters:
            parameter.grad = None
        with torch.enable_grad():
            torch.autograd.backward(loss, retain_graph=not is_last)
        return [parameter.grad for parameter in self._parameters]

    def _multiply(self, tasks: int) -> LayerGrams:
        grams = torch.zeros(self._size, tasks, tasks, dtype=torch.float64, device=self._device)
        reached = torch.zeros(self._size, tasks, dtype=torch.int64, device=self._device)
        for rows in self._held:
            layer = self._layer_of.get(id(rows.parameter))
            if layer is None:
                continue
            own = rows.own
            at = torch.tensor(rows.tasks, device=self._device)
            grams[layer, at.unsqueeze(1), at] += inner_products(own, own)
            reached[layer, at] += own.any(1)
        Ranks.current().sum([grams, reached])
        return LayerGrams(grams, (reached > 0).cpu(), FeatureGrams.of_none(0, tasks, self._device))


def _by_parameter(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Sequence[torch.Tensor | None]]
) -> Iterator[_Rows]:
    """The rows of the parameters that any task reaches.

    :param gradients: of each task, those of all parameters.
    """
    for parameter, of_tasks in zip(parameters, zip(*gradients, strict=True), strict=True):
        there = {task: gradient for task, gradient in enumerate(of_tasks) if isinstance(gradient, DTensor)}
        if there:
            yield _Rows(parameter, list(there), list(there.values()))


def _fill(rows: _Rows, own: torch.Tensor, *, accumulate: bool) -> None:
    """Leave this rank's shard of an update, [size], as `backward()` leaves that of a gradient."""
    like = rows.gradients[0]
    local = own.view(like.to_local().shape)
    shard = partial(DTensor.from_local, device_mesh=like.device_mesh, placements=like.placements, run_check=False)
    fill([rows.parameter], [shard(local, shape=like.shape, stride=like.stride())], accumulate=accumulate)
