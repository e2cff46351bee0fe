"""The engine: one forward pass, one backward pass per task, and per layer the Gram matrix of the task gradients.

Nothing of a user's network is changed. While a forward pass is watched, hooks note the calls of layers that have a
shorter route; which route a parameter takes is decided for every pass from the graph itself, so that a weight that is
used in any other way than by the calls that were noted takes the general route.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge

from recon_cli.errors import ReconError
from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.budget import memory_limit
from recon_cli.gradients.features import FeatureGrams, Features
from recon_cli.gradients.graph import Graph, operation_behind, several_passes
from recon_cli.gradients.hook import Hook
from recon_cli.gradients.passes import Passes
from recon_cli.gradients.reach import Reach
from recon_cli.gradients.routes.by_feature import ByFeature
from recon_cli.gradients.routes.by_gradient import ByGradient
from recon_cli.gradients.routes.by_output import ByOutput, Call
from recon_cli.gradients.routes.convolution import ConvByOutput
from recon_cli.gradients.routes.embedding import EmbeddingByOutput
from recon_cli.gradients.routes.linear import LinearByOutput
from recon_cli.gradients.routes.memory import RowMemory
from recon_cli.gradients.routes.route import ParameterWeights, Route, fill
from recon_cli.gradients.watching import Watching
from recon_cli.layers.discovery import Layer

_AIM = 64 << 20
"""Bytes; a slice of the graph that holds as much ends where it can."""

_NO_LIMIT = 1 << 62

_MARGIN = 0.8
"""How much cheaper, by operations, the way over the outputs has to be: matrix products run slower than convolutions."""

_OVERRIDABLE = frozenset({"forward", "_conv_forward"})

_BY_OUTPUT: tuple[type[ByOutput], ...] = (LinearByOutput, ConvByOutput, EmbeddingByOutput)

ParameterUpdate = Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]
"""From a parameter, the gradients of n tasks, [n, size], and which tasks these are, to an update, [size]."""


@dataclass(frozen=True)
class LayerGrams:
    """What one iteration gives.

    :ivar grams: float64, [L, T, T], on the network's device; zero where a task does not reach a layer.
    :ivar reached: bool, [L, T], on the CPU.
    :ivar features: the same for the shared representations that were named.
    """

    grams: torch.Tensor
    reached: torch.Tensor
    features: FeatureGrams

    def part(self, layers: Sequence[int], features: int) -> LayerGrams:
        """What was found for some of the layers, and for the first of the representations."""
        return LayerGrams(self.grams[layers], self.reached[layers], self.features.first(features))

    def unscaled(self, scale: float) -> LayerGrams:
        """The same of the losses themselves, where those of the backward passes were multiplied by a factor."""
        if scale == 1:
            return self
        # The square of a large factor could overflow.
        features = replace(self.features, grams=self.features.grams / scale / scale)
        return LayerGrams(self.grams / scale / scale, self.reached, features)


class GramEngine(Watching):
    """Computes the Gram matrices of the task gradients of a network's layers, and a weighted sum of the gradients.

    :param model: the network.
    :param layers: the layers whose Gram matrices are wanted, L of them. Other parameters only get a gradient.
    :param limit: bytes that gradients of several tasks may take at a time; None for a part of what is free.
    :param features: names of modules whose outputs are shared representations.
    :param whole: whether the gradients themselves are wanted, for `combine_rows`; no shorter route is taken then.
    :raises ReconError: if there is no module of such a name.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        limit: int | None = None,
        features: Sequence[str] = (),
        *,
        whole: bool = False,
    ) -> None:
        super().__init__()
        # Frozen ones as well, which may be trained later.
        self._parameters = list(model.parameters())
        self._layer_of = {id(p): index for index, layer in enumerate(layers) for p in layer.parameters.values()}
        self._size = len(layers)
        modules = () if whole else model.modules()
        self._watched = {module: kind for module in modules if (kind := _kind(module)) is not None}
        self._features = Features(model, features)
        # Under this key, what is noted of a call lies with its node, so that it goes when the graph does.
        self._noted = object()
        self._operations = frozenset(name for kind in _BY_OUTPUT for name in kind.operations)
        self._limit = limit
        self._memory = RowMemory()
        self._position_of = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        self._held: list[Route] = []
        self._held_features: dict[int, ByFeature] = {}
        self._shares = torch.ones(())

    def watch(self, *, features: bool = True) -> None:
        """Note the calls of layers from now on.

        :param features: whether the named representations are noted as well.
        """
        self.unwatch()
        # Ahead of the user's hooks, which may put something else in the output's place.
        note = Hook(self, GramEngine._note)
        self._hooks = [module.register_forward_hook(note, prepend=True) for module in self._watched]
        self._hooks += self._features.watch() if features else []

    def backward(
        self, losses: Sequence[torch.Tensor | None], weights: torch.Tensor | None = None, *, accumulate: bool = False
    ) -> LayerGrams:
        """One backward pass for each loss; the graph is freed with the last.

        With weights that are known before, the gradients of only one part of the network are held at a time; else all
        are, until `combine`. Where several ranks train together, all of this is about the gradients' means over those
        ranks that have the task's loss.

        :param losses: T scalars of one graph; None for a task that other ranks alone have.
        :param weights: [T], or None: fill `.grad` of every parameter, and of whatever else the losses have a gradient
            for, with sum_i w_i g_i; 1/T each is joint training with the mean of the losses.
        :param accumulate: whether to add to the gradients that are there, as `backward()` does.
        :raises ReconError: if the network is checkpointed in PyTorch's older, reentrant way, or sharded, or a named
            representation is not one tensor.
        """
        if weights is None:
            return self._run(losses, None)
        if not accumulate:
            # Old and new gradients need not lie side by side.
            for parameter in self._parameters:
                parameter.grad = None if parameter.requires_grad else parameter.grad
        return self._run(losses, partial(self.combine, weights, accumulate=accumulate))

    def measure(self, losses: Sequence[torch.Tensor | None]) -> LayerGrams:
        """The same backward passes for their Gram matrices alone: no `.grad` is filled, and no gradient held after it.

        :param losses: as `backward` takes them.
        :raises ReconError: as `backward` does.
        """
        return self._run(losses, self._let_go)

    def _run(self, losses: Sequence[torch.Tensor | None], finish: Callable[[], None] | None) -> LayerGrams:
        """The backward passes.

        :param finish: what is done with the gradients of a part of the network before those of the next are held; None
            to hold all.
        """
        # Products of gradients would be rounded to half precision in an autocast context that is still open.
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False), several_passes():
            ranks = Ranks.current()
            _check_whole(self._parameters)
            graph = Graph.behind(losses)
            graph.check_repeatable()
            reach = Reach.of(graph, losses, self._parameters, ranks, self._device)
            routes = self._choose_routes(graph, reach, alone=ranks.size == 1) + self._features.take_routes(graph)
            aim, limit = (_NO_LIMIT, _NO_LIMIT) if finish is None else self._limits()
            passes = Passes(graph, losses, routes, self._memory, aim=aim, limit=limit)
            in_order = ranks.size == 1 or self._agree_on_order(passes, ranks)
            tasks = len(losses)
            grams = torch.zeros(self._size, tasks, tasks, dtype=torch.float64, device=self._device)
            features = FeatureGrams.of_none(len(self._features.names), tasks, self._device)
            found = LayerGrams(grams, torch.zeros(self._size, tasks, dtype=torch.bool), features)
            self._shares = reach.shares
            self._held, self._held_features = [], {}
            # Of a step that was not combined, or failed.
            self._memory.reset()
            for complete in passes.run():
                for route in complete:
                    if isinstance(route, ByFeature):
                        features.add(route, reach.shares)
                        self._held_features[route.number] = route
                    else:
                        self._held.append(route)
                if in_order:
                    self._multiply(complete, reach, ranks, found)
                    if finish is not None:
                        finish()
            if not in_order:
                self._held.sort(key=self._position)
                self._multiply(self._held, reach, ranks, found)
                if finish is not None:
                    finish()
            grams.mul_(reach.shares.unsqueeze(0) * reach.shares.unsqueeze(1))
            self._correct_reach(graph, found)
            features.sum_over(ranks)
            return found

    def feature(self, number: int) -> ByFeature | None:
        """The gradients with respect to one of the named representations, until `combine`; None if no loss reaches it.

        :param number: its place among them.
        """
        return self._held_features.get(number)

    def combine(self, weights: torch.Tensor | ParameterWeights, *, accumulate: bool = False) -> None:
        """Fill `.grad` of every parameter with sum_i w_i g_i, from what `backward` without weights left.

        :param weights: [T], or what gives them for a parameter.
        :param accumulate: whether to add to the gradients that are there, as `backward()` does.
        """
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            same = weights.to(self._device) if isinstance(weights, torch.Tensor) else None
            for route in self._held:
                found = weights(route.parameters[0]) if callable(weights) else same
                assert found is not None
                found = found * self._shares if self._is_own(route) else found
                fill(route.parameters, route.combine(found), accumulate=accumulate)
        self._let_go()

    def combine_rows(self, update: ParameterUpdate, *, accumulate: bool = False) -> None:
        """Fill `.grad` of every parameter with an update made of its task gradients, from what `backward` without
        weights left; only for an engine that was made for `whole` gradients.

        :param accumulate: whether to add to the gradients that are there, as `backward()` does.
        """
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            # In the network's order, so that random numbers are drawn for the same entries on all ranks.
            for route in sorted(self._held, key=self._position):
                assert isinstance(route, ByGradient)
                parameter = route.parameters[0]
                shares = self._shares if self._is_own(route) else torch.ones_like(self._shares)
                gradient = route.combine_rows(partial(update, parameter), shares)
                fill(route.parameters, [gradient], accumulate=accumulate)
        self._held = []
        self._memory.reset()

    def _let_go(self) -> None:
        self._held, self._held_features = [], {}
        self._memory.reset()

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # What is being compiled becomes one node of the graph, whatever its layers are; what is traced is for others.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        if not isinstance(output, torch.Tensor) or not output.requires_grad or len(inputs) != 1:
            return
        # What somebody put in the place of this module's own `forward` may do anything with the input.
        if not _OVERRIDABLE.isdisjoint(vars(module)):
            return
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        node = operation_behind(output, weight, self._watched[module].operations)
        if node is not None:
            x = inputs[0].detach()
            node.metadata[self._noted] = partial(Call, module, x, x._version, output.shape, output.dtype)

    def _choose_routes(self, graph: Graph, reach: Reach, *, alone: bool) -> list[Route]:
        routes: list[Route] = []
        taken: set[int] = set()
        for module, calls in self._take_calls(graph).items():
            kind = self._watched[module]
            # Other ranks have other inputs, so gradients can only be added up as such.
            if alone and self._may_go_by_output(kind, calls, graph):
                route = kind(calls, len(graph.tasks_of(calls[0].module.weight)))  # type: ignore[arg-type]
                routes.append(route)
                taken |= {id(parameter) for parameter in route.parameters}
        for parameter, tasks in zip(self._parameters, reach.tasks, strict=True):
            if parameter.requires_grad and id(parameter) not in taken:
                routes.append(ByGradient(parameter, graph.users.get(id(parameter), ()), len(tasks)))
        for key, leaf in graph.leaves.items():
            # Such as learned weights of the losses.
            if key not in self._position_of:
                routes.append(ByGradient(leaf, graph.users[key], len(graph.tasks_of(leaf))))
        return routes

    def _take_calls(self, graph: Graph) -> dict[nn.Module, list[Call]]:
        """The calls that were noted and are part of the graph, in their order; nothing of them is left there."""
        nodes = [node for node in graph.order if node.name() in self._operations]
        found: dict[nn.Module, list[Call]] = {}
        for node in sorted(nodes, key=lambda node: node._sequence_nr()):
            noted = node.metadata.pop(self._noted, None)
            if noted is not None:
                call = noted(GradientEdge(node, 0))
                found.setdefault(call.module, []).append(call)
        return found

    def _may_go_by_output(self, kind: type[ByOutput], calls: Sequence[Call], graph: Graph) -> bool:
        weight, bias = calls[0].module.weight, getattr(calls[0].module, "bias", None)
        assert isinstance(weight, torch.Tensor)
        operations = [call.edge.node for call in calls]
        for parameter in (weight, bias):
            if parameter is None:
                continue
            if id(parameter) not in self._layer_of or not parameter.requires_grad:
                return False
            # Whatever else uses the parameter, or looks at its gradient, would be passed over.
            if parameter._backward_hooks or not graph.is_used_alone_by(operations, parameter):
                return False
        if not all(
            call.is_intact and call.dtype == weight.dtype and call.input.layout == torch.strided for call in calls
        ):
            return False
        if weight.is_complex() or weight.numel() == 0:
            return False
        by_output, by_gradient = kind.costs(calls, len(graph.tasks_of(weight)))
        return by_output < _MARGIN * by_gradient

    def _is_own(self, route: Route) -> bool:
        """Whether a route gives gradients of the network, which ranks have in common."""
        return bool(route.parameters) and id(route.parameters[0]) in self._position_of

    def _position(self, route: Route) -> int:
        return self._position_of.get(id(route.parameters[0]), -1)

    def _agree_on_order(self, passes: Passes, ranks: Ranks) -> bool:
        """Whether all ranks complete the parameters in the same slices; else they cannot add up one after the other."""
        slices = [[self._position(route) for route in complete if self._is_own(route)] for complete in passes.completed]
        number = int.from_bytes(sha256(repr(slices).encode()).digest()[:7], "big")
        return ranks.highest(number) == -ranks.highest(-number)

    def _multiply(self, routes: Sequence[Route], reach: Reach, ranks: Ranks, found: LayerGrams) -> None:
        if ranks.size > 1:
            shared = [
                (route, reach.tasks[self._position(route)])
                for route in routes
                if isinstance(route, ByGradient) and self._is_own(route)
            ]
            ranks.sum([route.align(tasks) for route, tasks in shared if tasks])
        for route in routes:
            if any(id(parameter) in self._layer_of for parameter in route.parameters):
                self._add(route, found)

    def _add(self, route: Route, found: LayerGrams) -> None:
        for part in route.grams():
            layer = self._layer_of[id(part.parameter)]
            found.reached[layer, part.tasks] = True
            gram = part.gram.to(found.grams.device)
            if part.tasks == list(range(found.grams.shape[-1])):
                found.grams[layer] += gram
            else:
                at = torch.tensor(part.tasks, device=found.grams.device)
                found.grams[layer, at.unsqueeze(1), at] += gram

    def _correct_reach(self, graph: Graph, found: LayerGrams) -> None:
        """Take back tasks that seemed to reach a layer because one node of the graph stands for several of the network.

        Such a node gives zeros where there is no gradient.
        """
        merged = {
            self._layer_of[id(p)] for p in self._parameters if id(p) in self._layer_of and graph.is_merged_before(p)
        }
        if merged:
            layers = sorted(merged)
            found.reached[layers] &= (found.grams[layers].diagonal(dim1=1, dim2=2) != 0).cpu()

    def _limits(self) -> tuple[int, int]:
        if self._limit is None:
            # Asked once, so that all steps are cut alike.
            self._limit = memory_limit(self._device)
        return min(_AIM, self._limit), self._limit


def _check_whole(parameters: Sequence[torch.Tensor]) -> None:
    # A DTensor, as FSDP2 and tensor parallelism have them.
    if any(hasattr(parameter, "device_mesh") for parameter in parameters):
        raise ReconError(
            "the network is sharded over several devices, and gradients of one task alone cannot be asked for there",
            "profile it under DistributedDataParallel, or a smaller one of the same layers on one device",
        )


def _kind(module: nn.Module) -> type[ByOutput] | None:
    """The shorter route that a module has, if any."""
    return next((kind for kind in _BY_OUTPUT if kind.accepts(module)), None)
