"""The fast gradient surrogate: gradients of the tasks with respect to a shared representation, instead of its trunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from recon_cli.errors import ReconError, listed, quoted
from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.features import Features, gram_of
from recon_cli.gradients.graph import Graph, Node, several_passes
from recon_cli.gradients.routes.by_feature import ByFeature
from recon_cli.gradients.routes.by_gradient import ByGradient
from recon_cli.gradients.routes.memory import RowMemory
from recon_cli.gradients.routes.route import ParameterWeights, Route, fill
from recon_cli.gradients.watching import Watching


@dataclass(frozen=True)
class Layout:
    """Where the parameters lie, seen from a representation Z.

    :ivar trunk: those behind Z, and what else gradients end at there.
    :ivar before: those before Z, and what else gradients end at there, each with the tasks that reach it.
    """

    trunk: list[torch.Tensor]
    before: list[tuple[torch.Tensor, list[int]]]


@dataclass(frozen=True)
class _Held:
    """What lies between the backward passes down to Z and the one from there.

    :ivar feature: the gradients with respect to Z.
    :ivar before: what takes the gradients of the parameters before Z.
    :ivar awaited: the tasks, as bits, whose way to there a later task crosses.
    """

    feature: ByFeature
    layout: Layout
    before: list[ByGradient]
    awaited: int


class GradientSurrogate(Watching):
    """One backward pass per task down to a shared representation Z, and a single one through the trunk behind it.

        surrogate = GradientSurrogate(model, "trunk.pool")
        with surrogate.watching():
            losses = ...
        gram = surrogate.backward(losses)           # [T, T]
        surrogate.combine(weights_from(gram))       # .grad of all parameters

    For methods whose weights are a function of the Gram matrix, on feature-level gradients dL_i/dZ (MGDA-UB,
    Aligned-MTL-UB). By the chain rule the trunk gets sum_i w_i g_i exactly, whatever the weights; what is approximated
    is the Gram matrix that they are chosen by.

    :param model: the network.
    :param module: the name of the module whose output is Z. Everything that is to count as the trunk lies behind it.
    :raises ReconError: if there is no such module.
    """

    def __init__(self, model: nn.Module, module: str) -> None:
        super().__init__()
        self._module = module
        self._features = Features(model, [module])
        # Frozen ones as well, which may be trained later.
        self._parameters = dict(model.named_parameters())
        self._memory = RowMemory()
        self._held: _Held | None = None

    def watch(self) -> None:
        """Note where Z lies from now on."""
        self.unwatch()
        self._hooks = self._features.watch()

    def backward(self, losses: Sequence[torch.Tensor]) -> torch.Tensor:
        """One backward pass for each loss, down to Z; the graph of the trunk is kept for `combine`.

        :param losses: T scalars of one graph.
        :returns: float64, [T, T]: the inner products of dL_i/dZ, flattened over the batch and all else; zero for a task
            that does not reach Z.
        :raises ReconError: if no loss reaches Z, or if one reaches parameters of the trunk on another way as well, so
            that the gradient with respect to Z is not all that they get; or if several ranks train the network.
        """
        if Ranks.current().size > 1:
            raise ReconError(
                "the gradient surrogate finds the Gram matrix of one process alone", "use it where one process trains"
            )
        self._memory.reset()
        with torch.no_grad(), torch.autocast(losses[0].device.type, enabled=False), several_passes():
            graph = Graph.behind(losses)
            held = self._find(graph)
            feature = held.feature
            _run(graph, losses, held)
            self._held = held
            gram = torch.zeros(len(losses), len(losses), dtype=torch.float64, device=losses[0].device)
            at = torch.tensor(feature.reached, device=gram.device)
            gram[at.unsqueeze(1), at] = gram_of(feature).to(gram.device)
            return gram

    @property
    def gradients(self) -> ByFeature:
        """The gradients with respect to Z that `backward` found, until `combine`.

        :raises ReconError: if `backward` was not called before.
        """
        return self._taken().feature

    @property
    def layout(self) -> Layout:
        """Where the parameters lie that `backward` found, until `combine`.

        :raises ReconError: if `backward` was not called before.
        """
        return self._taken().layout

    def layout_of(self, losses: Sequence[torch.Tensor]) -> Layout:
        """Where the parameters lie, without a backward pass.

        :param losses: T scalars of one graph.
        :raises ReconError: whenever `backward` would raise one.
        """
        return self._find(Graph.behind(losses)).layout

    def combine(
        self, weights: torch.Tensor, before: ParameterWeights | None = None, *, accumulate: bool = False
    ) -> None:
        """Fill `.grad`: one backward pass from Z through the trunk, which frees its graph.

        The trunk's parameters get sum_i w_i g_i.

        :param weights: w, [T].
        :param before: from a parameter before Z to the weights of its gradients. Default: w for those that several
            losses reach; the others, as those of heads, get their own gradient.
        :param accumulate: whether to add to the gradients that are there, as `backward()` does.
        :raises ReconError: if `backward` was not called before.
        """
        held, self._held = self._taken(), None
        with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
            for route, (parameter, reaching) in zip(held.before, held.layout.before, strict=True):
                if before is not None:
                    factors = before(parameter)
                else:
                    factors = weights if len(reaching) > 1 else torch.ones_like(weights)
                fill(route.parameters, route.combine(factors), accumulate=accumulate)
            trunk = held.layout.trunk
            if not trunk:
                return
            if not accumulate:
                fill(trunk, [None] * len(trunk), accumulate=False)
            torch.autograd.backward([held.feature.edge], [held.feature.weighted_sum(weights)], inputs=trunk)

    def _taken(self) -> _Held:
        if self._held is None:
            raise ReconError("there are no gradients to combine", "call `backward(losses)` before each `combine`")
        return self._held

    def _find(self, graph: Graph) -> _Held:
        """Find Z in the graph, and what lies before and behind it."""
        graph.check_repeatable()
        feature = next(iter(self._features.take_routes(graph)), None)
        if feature is None:
            raise ReconError(
                f"no loss reaches an output of module {quoted(self._module)}",
                "name a module that the forward pass calls",
            )
        return self._split(graph, feature)

    def _split(self, graph: Graph, feature: ByFeature) -> _Held:
        """Tell the trunk from the parameters before Z."""
        edge = (feature.edge.node, feature.edge.output_nr)
        before = _reached(graph, (root.node for root in graph.roots if root is not None), avoiding=edge)
        behind = _reached(graph, [edge[0]])
        awaited = 0
        for node in before - behind:
            tasks = graph.tasks[node]
            awaited |= tasks ^ (1 << tasks.bit_length() >> 1)
        layout = Layout([], [])
        held = _Held(feature, layout, [], awaited)
        astray = []
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        # Whatever else gradients end at, such as learned weights of the losses.
        others = [leaf for key, leaf in graph.leaves.items() if key not in names]
        for parameter in (*self._parameters.values(), *others):
            if not parameter.requires_grad:
                continue
            users = graph.users.get(id(parameter), ())
            if behind.isdisjoint(users):
                reaching = graph.tasks_of(parameter)
                route = ByGradient(parameter, users, len(reaching))
                route.memory = self._memory
                held.before.append(route)
                layout.before.append((parameter, reaching))
            elif before.isdisjoint(users):
                layout.trunk.append(parameter)
            else:
                astray.append(names.get(id(parameter), "a tensor outside the network"))
        if astray:
            raise ReconError(
                f"the losses reach {listed(astray, 3)} not only through the output of module {quoted(self._module)}",
                "name a module that all of the trunk runs through",
            )
        feature.memory = self._memory
        return held


def _reached(graph: Graph, starts: Iterable[Node], avoiding: tuple[Node, int] | None = None) -> set[Node]:
    """The nodes that gradients flow to from some, but for those that only one edge leads to."""
    found: set[Node] = set()
    pending = list(starts)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += [edge[0] for edge in graph.flows[node] if edge != avoiding]
    return found


def _run(graph: Graph, losses: Sequence[torch.Tensor], held: _Held) -> None:
    """The backward passes down to Z and to the parameters before it."""
    used = [route for route in held.before if graph.users.get(id(route.parameters[0]))]
    routes: list[Route] = [held.feature, *used]
    targets = [route.targets[0] for route in routes]
    for task, loss in enumerate(losses):
        # A pass frees what it runs through, and that is nothing behind Z.
        retain = bool(held.awaited >> task & 1)
        found = torch.autograd.grad([loss], targets, retain_graph=retain, allow_unused=True)  # type: ignore[arg-type]
        for route, gradient in zip(routes, found, strict=True):
            if gradient is not None:
                route.keep(task, 0, gradient)
