"""The engine: one forward pass, one backward pass per task, and per layer the Gram matrix of the task gradients.

Nothing of a user's network is changed. While a forward pass is watched, hooks note the calls of layers that have a
shorter route; which route a parameter takes is decided for every pass from the graph itself, so that a weight that is
used in any other way than by the calls that were noted takes the general route.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.hooks import RemovableHandle

from recon_cli.layers.discovery import Layer
from recon_cli.profiling.graph import is_made_from, uses_of_parameters
from recon_cli.profiling.routes import (
    ByGradient,
    ByOutput,
    Call,
    ConvByOutput,
    EmbeddingByOutput,
    LinearByOutput,
    Route,
)

_MARGIN = 0.8
"""How much cheaper, by operations, the way over the outputs has to be: matrix products run slower than convolutions."""

_OPERATIONS: dict[type[ByOutput], frozenset[str]] = {
    LinearByOutput: frozenset({"AddmmBackward0", "MmBackward0"}),
    ConvByOutput: frozenset({"ConvolutionBackward0"}),
    EmbeddingByOutput: frozenset({"EmbeddingBackward0"}),
}


@dataclass(frozen=True)
class LayerGrams:
    """What one iteration gives.

    :ivar grams: float64, [L, T, T], on the losses' device; zero where a task does not reach a layer.
    :ivar reached: bool, [L, T], on the CPU.
    """

    grams: torch.Tensor
    reached: torch.Tensor


class GramEngine:
    """Computes the Gram matrices of the task gradients of a network's layers, and any weighted sum of the gradients.

    :param model: the network.
    :param layers: the layers whose Gram matrices are wanted, L of them. Other parameters only get a gradient.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._layer_of = {id(p): index for index, layer in enumerate(layers) for p in layer.parameters.values()}
        self._size = len(layers)
        self._watched = {module: kind for module in model.modules() if (kind := _kind(module)) is not None}
        self._calls: dict[nn.Module, list[Call]] = {}
        self._hooks: list[RemovableHandle] = []
        self._routes: list[Route] = []
        self._buffers: dict[int, torch.Tensor | None] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the calls of layers in the forward pass that runs inside the block."""
        self.watch()
        try:
            yield
        finally:
            self.unwatch()

    def watch(self) -> None:
        """Note the calls of layers from now on."""
        self.unwatch()
        self._calls = {}
        self._hooks = [module.register_forward_hook(self._note) for module in self._watched]

    def unwatch(self) -> None:
        """Note no calls any more; what was noted is kept for the backward passes."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def backward(self, losses: Sequence[torch.Tensor]) -> LayerGrams:
        """One backward pass for each loss; the graph is freed with the last.

        :param losses: T scalars of one graph.
        """
        # Products of gradients would be rounded to half precision in an autocast context that is still open.
        with torch.no_grad(), torch.autocast(losses[0].device.type, enabled=False):
            self._routes = self._choose_routes(losses)
            targets = [target for route in self._routes for target in route.targets]
            last = len(losses) - 1
            for task, loss in enumerate(losses):
                found = list(
                    torch.autograd.grad(loss, targets, retain_graph=task < last, allow_unused=True)  # type: ignore[arg-type]
                )
                found.reverse()
                for route in self._routes:
                    # Handed over one by one, so that no second copy of all gradients stays alive.
                    route.keep(task, [found.pop() for _ in route.targets])
            return self._multiply(losses)

    def combine(self, weights: torch.Tensor, *, accumulate: bool = False) -> None:
        """Fill `.grad` of every parameter with sum_i w_i g_i, from what the backward passes left.

        :param weights: [T]; 1/T each is joint training with the mean of the losses.
        :param accumulate: whether to add to the gradients that are there, as `backward()` does.
        """
        before = [(p, p.grad) for p in self._parameters if p.grad is not None] if accumulate else []
        with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
            for route in self._routes:
                route.combine(weights)
                if isinstance(route, ByGradient):
                    self._buffers[id(route.targets[0])] = route.buffer
            for parameter, gradient in before:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
        self._routes = []

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, torch.Tensor) or not output.requires_grad or len(inputs) != 1:
            return
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        # A hook of the user's may have put something else in the output's place.
        if is_made_from(output, weight, _OPERATIONS[self._watched[module]]):
            x = inputs[0].detach()
            call = Call(module, x, x._version, get_gradient_edge(output), output.shape, output.dtype)
            self._calls.setdefault(module, []).append(call)

    def _choose_routes(self, losses: Sequence[torch.Tensor]) -> list[Route]:
        uses = uses_of_parameters(losses)
        routes: list[Route] = []
        taken: set[int] = set()
        for module, calls in self._calls.items():
            kind = self._watched[module]
            if self._may_go_by_output(kind, calls, uses, len(losses)):
                route = kind(calls, len(losses))
                routes.append(route)
                taken |= {id(route.weight), id(route.bias)}
        self._calls = {}
        routes += [
            ByGradient(parameter, self._buffers.get(id(parameter)), len(losses))
            for parameter in self._parameters
            if id(parameter) not in taken
        ]
        return routes

    def _may_go_by_output(self, kind: type[ByOutput], calls: Sequence[Call], uses: Counter[int], tasks: int) -> bool:
        weight, bias = calls[0].module.weight, getattr(calls[0].module, "bias", None)
        assert isinstance(weight, torch.Tensor)
        for parameter in (weight, bias):
            if parameter is None:
                continue
            if id(parameter) not in self._layer_of or not parameter.requires_grad:
                return False
            # Whatever else uses the parameter, or looks at its gradient, would be passed over.
            if uses[id(parameter)] != len(calls) or parameter._backward_hooks:
                return False
        if not all(call.is_intact and call.dtype == weight.dtype for call in calls):
            return False
        return _is_cheaper(kind, calls, tasks)

    def _multiply(self, losses: Sequence[torch.Tensor]) -> LayerGrams:
        tasks = len(losses)
        grams = torch.zeros(self._size, tasks, tasks, dtype=torch.float64, device=losses[0].device)
        reached = torch.zeros(self._size, tasks, dtype=torch.bool)
        for route in self._routes:
            if isinstance(route, ByGradient) and id(route.targets[0]) not in self._layer_of:
                continue
            for parameter, gram, own in route.grams():
                layer = self._layer_of[id(parameter)]
                reached[layer, own] = True
                if len(own) == tasks:
                    grams[layer] += gram
                else:
                    at = torch.tensor(own, device=grams.device)
                    grams[layer, at.unsqueeze(1), at] += gram
        return LayerGrams(grams, reached)


def _kind(module: nn.Module) -> type[ByOutput] | None:
    """The shorter route that a module has, if any; subclasses may compute something else."""
    if type(module) is nn.Linear:
        return LinearByOutput
    if type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros":
        return ConvByOutput if not isinstance(module.padding, str) else None
    if type(module) is nn.Embedding and module.max_norm is None:
        return EmbeddingByOutput if not (module.scale_grad_by_freq or module.sparse) else None
    return None


def _is_cheaper(kind: type[ByOutput], calls: Sequence[Call], tasks: int) -> bool:
    """Whether the way over the outputs takes fewer operations (for an embedding: less memory) than the gradients."""
    weight = calls[0].module.weight
    assert isinstance(weight, torch.Tensor)
    if kind is EmbeddingByOutput:
        tokens = sum(call.input.numel() for call in calls)
        return tokens * weight.shape[1] < _MARGIN * weight.numel()
    width = weight.shape[0]
    rows = sum(call.shape.numel() for call in calls) // width
    fan_in = prod(weight.shape[1:])
    by_gradient = tasks * rows * fan_in * width + tasks**2 * fan_in * width
    by_output = rows**2 * fan_in + tasks * rows**2 * width + tasks**2 * rows * width + rows * fan_in * width
    return by_output < _MARGIN * by_gradient
