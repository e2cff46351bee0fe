"""The route over a layer's outputs: what linear layers, convolutions and embeddings have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import nn
from torch.autograd.graph import GradientEdge

from recon_cli.gradients.graph import Node
from recon_cli.gradients.products import in_single_precision, inner_products
from recon_cli.gradients.routes.route import ParameterGram, Route, pick


@dataclass(frozen=True)
class Call:
    """One call of a layer in the forward pass.

    :ivar input: the layer's input, detached.
    :ivar version: how often the input had been written to then.
    :ivar shape: shape of the output.
    :ivar dtype: type of the output.
    :ivar edge: where the gradient of the output is found.
    """

    module: nn.Module
    input: torch.Tensor
    version: int
    shape: torch.Size
    dtype: torch.dtype
    edge: GradientEdge

    @property
    def is_intact(self) -> bool:
        """Whether the input still holds what the layer was called with."""
        return self.input._version == self.version


class ByOutput(Route):
    """Holds the gradients D_i of a layer's outputs instead of those of its weight.

    :param calls: all calls of the layer in this forward pass.
    :param tasks: the number of tasks whose gradients may arrive at it.
    """

    operations: frozenset[str]
    """The operations of the autograd graph that the layer is, by their names there."""
    weight: nn.Parameter
    bias: nn.Parameter | None
    width: int
    """The length d of an output row."""

    def __init__(self, calls: Sequence[Call], tasks: int) -> None:
        super().__init__()
        module = calls[0].module
        self.weight = module.weight  # type: ignore[assignment]
        self.bias = getattr(module, "bias", None)
        self.parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        self.targets = [call.edge for call in calls]
        self.sources = [[call.edge.node] for call in calls]
        self._calls = calls
        self._capacity = tasks
        self._starts = [0, *accumulate(self.rows_of(call) for call in calls)]
        self._held: torch.Tensor | None = None
        self._reached: list[int] = []

    @classmethod
    @abstractmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Whether a module is a layer that this route computes exactly; its subclasses may compute something else."""

    @staticmethod
    @abstractmethod
    def rows_of(call: Call) -> int:
        """The number of rows N that one call adds."""

    @classmethod
    @abstractmethod
    def costs(cls, calls: Sequence[Call], tasks: int) -> tuple[int, int]:
        """What this route costs, and what the gradients would cost, in a unit that only the two share."""

    @abstractmethod
    def _weight_gram(self) -> torch.Tensor:
        """The Gram matrix of the weight's gradients, float64, [n, n]."""

    @abstractmethod
    def _weight_gradient(self, weights: torch.Tensor) -> torch.Tensor:
        """The weighted sum of the weight's gradients.

        :param weights: [n].
        """

    def bytes_held(self) -> dict[Node, int]:
        """The output gradients of all tasks."""
        held: dict[Node, int] = {}
        for call in self._calls:
            size = call.shape.numel() * call.dtype.itemsize * self._capacity
            held[call.edge.node] = held.get(call.edge.node, 0) + size
        return held

    def keep(self, task: int, target: int, gradient: torch.Tensor) -> None:
        """Copy the gradient of one call's output into its rows."""
        if self._held is None:
            self._held = self.memory.take((self._capacity, self._starts[-1], self.width), gradient)
        if task not in self._reached:
            self._reached.append(task)
            if len(self._calls) > 1:
                # A task need not reach every call.
                self._held[len(self._reached) - 1].zero_()
        row = self._held[self._reached.index(task)]
        rows = row[self._starts[target] : self._starts[target + 1]]
        last = self._width_last(gradient)
        rows.view(last.shape).copy_(last)

    @abstractmethod
    def _width_last(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of one call's output as a view whose last dimension is d."""

    def grams(self) -> list[ParameterGram]:
        """Multiply through the inputs."""
        if self._held is None:
            return []
        found = [ParameterGram(self.weight, self._weight_gram(), self._reached)]
        if self.bias is not None:
            found.append(ParameterGram(self.bias, inner_products(self._sums, self._sums), self._reached))
        return found

    def combine(self, weights: torch.Tensor) -> list[torch.Tensor | None]:
        """Add up the output gradients, and form one weight gradient from the sum."""
        if self._held is None:
            return [None] * len(self.parameters)
        # Weights may be anything, and would not all be numbers in half precision.
        weights = pick(weights, self._reached).to(torch.promote_types(self._held.dtype, torch.float32))
        gradient = self._weight_gradient(weights).to(self.weight.dtype)
        if gradient.stride() != self.weight.stride():
            # Optimizers are fastest, and some work only, where a gradient lies in memory as its parameter does.
            gradient = torch.empty_like(self.weight).copy_(gradient)
        if self.bias is None:
            return [gradient]
        return [gradient, (weights @ in_single_precision(self._sums)).to(self.bias.dtype)]

    @property
    def outputs(self) -> torch.Tensor:
        """The output gradients of the tasks that reach the layer, [n, N, d]."""
        assert self._held is not None
        return self._held[: len(self._reached)]

    @cached_property
    def _sums(self) -> torch.Tensor:
        """The bias's gradients, [n, d]."""
        return self.outputs.sum(1)
