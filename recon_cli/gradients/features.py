"""Shared representations: the outputs of named modules, and the gradients of all tasks with respect to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from recon_cli.errors import ReconError, did_you_mean, quoted
from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.disentanglement import SaliencyEntropy, saliency_entropy
from recon_cli.gradients.graph import Graph
from recon_cli.gradients.hook import Hook
from recon_cli.gradients.products import inner_products
from recon_cli.gradients.routes.by_feature import ByFeature


@dataclass(frozen=True)
class FeatureGrams:
    """What one iteration gives for the F representations that were named, in their order.

    All but `reached` lie on the network's device.

    :ivar grams: float64, [F, T, T]: the inner products of dL_i/dZ, flattened over the batch and all else; zero where a
        task does not reach Z.
    :ivar reached: bool, [F, T], on the CPU.
    :ivar entropies: [F] each.
    """

    grams: torch.Tensor
    reached: torch.Tensor
    entropies: SaliencyEntropy

    @classmethod
    def of_none(cls, features: int, tasks: int, device: torch.device) -> FeatureGrams:
        """What there is before any gradient."""
        return cls(
            torch.zeros(features, tasks, tasks, dtype=torch.float64, device=device),
            torch.zeros(features, tasks, dtype=torch.bool),
            SaliencyEntropy(
                torch.zeros(features, dtype=torch.float64, device=device),
                torch.zeros(features, dtype=torch.int64, device=device),
                torch.zeros(features, dtype=torch.int64, device=device),
            ),
        )

    def first(self, number: int) -> FeatureGrams:
        """What was found for the first of them."""
        found = self.entropies
        entropies = SaliencyEntropy(found.total[:number], found.positions[:number], found.silent[:number])
        return FeatureGrams(self.grams[:number], self.reached[:number], entropies)

    def add(self, route: ByFeature, shares: torch.Tensor) -> None:
        """Fill in what the gradients of one representation give.

        :param shares: float64, [T]; see `Reach.shares`.
        """
        if not route.reached:
            return
        number = route.number
        self.reached[number, route.reached] = True
        at = torch.tensor(route.reached, device=self.grams.device)
        shares = shares[at]
        self.grams[number, at.unsqueeze(1), at] = gram_of(route).to(shares) * shares.unsqueeze(0) * shares.unsqueeze(1)
        found = saliency_entropy(route.rows, shares)
        self.entropies.total[number] = found.total
        self.entropies.positions[number] = found.positions
        self.entropies.silent[number] = found.silent

    def sum_over(self, ranks: Ranks) -> None:
        """Add up the parts of the batch that the ranks have: Z is the representation of all of it."""
        if ranks.size == 1 or len(self.reached) == 0:
            return
        reached = self.reached.to(self.grams.device, torch.int64)
        entropies = self.entropies
        ranks.sum([self.grams, entropies.total, entropies.positions, entropies.silent, reached])
        self.reached.copy_(reached > 0)


def gram_of(route: ByFeature) -> torch.Tensor:
    """The Gram matrix of the gradients that a route holds, float64, [n, n]."""
    rows = route.rows
    # The inner product of complex gradients is that of their real and imaginary parts.
    rows = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
    return inner_products(rows, rows)


@dataclass(frozen=True)
class _Output:
    """One output of a named module, and where its gradient was found when the module returned it."""

    tensor: torch.Tensor
    edge: GradientEdge


class Features:
    """Notes where the outputs of some modules lie in the graph.

    :param model: the network.
    :param names: qualified names of modules that return one tensor.
    :raises ReconError: if there is no module of a name, or a name is given twice.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        del modules[""]
        for name in names:
            if name not in modules:
                raise ReconError(f"the network has no module {quoted(name)}", did_you_mean(name, modules))
            if list(names).count(name) > 1:
                raise ReconError(f"the module {quoted(name)} is named twice as a feature")
        self.names = tuple(names)
        self._modules = [modules[name] for name in names]
        self._outputs: list[list[_Output]] = [[] for _ in names]

    def watch(self) -> list[RemovableHandle]:
        """Forget what was noted, and note the outputs from now on, until the hooks are removed."""
        self._forget()
        # Ahead of all other hooks, which may put something else in the output's place.
        return [
            module.register_forward_hook(Hook(self, Features._note, number), prepend=True)
            for number, module in enumerate(self._modules)
        ]

    def take_routes(self, graph: Graph) -> list[ByFeature]:
        """The routes of the representations that the losses reach; what was noted is forgotten.

        :raises ReconError: if it is not plain which gradient is meant.
        """
        found = [self._in_graph(number, graph) for number in range(len(self.names))]
        self._forget()
        return [
            ByFeature(number, edge, graph.tasks[edge.node].bit_count())
            for number, edge in enumerate(found)
            if edge is not None
        ]

    def _forget(self) -> None:
        self._outputs = [[] for _ in self.names]

    def _note(self, number: int, *call: Any) -> None:
        output = call[-1]
        # What is being compiled becomes one node of the graph.
        if torch.compiler.is_compiling():
            return
        if not isinstance(output, torch.Tensor):
            raise ReconError(
                f"the module {quoted(self.names[number])} returns a {quoted(type(output).__name__)}, "
                "but a feature is one tensor",
                "name a module that returns one",
            )
        # In a branched network every task's pass has the same output, as long as it is shared.
        if output.requires_grad and all(output is not known.tensor for known in self._outputs[number]):
            self._outputs[number].append(_Output(output, get_gradient_edge(output)))

    def _in_graph(self, number: int, graph: Graph) -> GradientEdge | None:
        """The edge of the one output that the losses reach; other forward passes may have been noted too."""
        name = quoted(self.names[number])
        found = []
        for output in self._outputs[number]:
            now, then = output.tensor.grad_fn, output.edge.node
            if then in graph.tasks:
                found.append(output.edge)
                if now is then and output.tensor._backward_hooks:
                    raise ReconError(
                        f"the gradient of the output of module {name} is changed by a hook",
                        "name the module before or after it",
                    )
            elif now is not then and now in graph.tasks:
                # Autograd rewrites the history of a view, and the gradient is found nowhere any more.
                raise ReconError(
                    f"the output of module {name} is a view that is written to in place later",
                    "name the module that writes to it, or let that one write elsewhere (`inplace=False`)",
                )
        if len(found) > 1:
            raise ReconError(
                f"the losses reach {len(found)} outputs of module {name}, but a feature is one tensor",
                "name a module that is called once",
            )
        return found[0] if found else None
