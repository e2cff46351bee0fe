"""A network's code as a graph of operations, and the places at which all its data flows through one tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from recon_cli.errors import ReconError, describe
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.targets import user_code
from recon_cli.network_states import leaving_no_trace


@dataclass(frozen=True)
class NetworkGraph:
    """The graph of a network's forward pass.

    :ivar root: the network.
    :ivar inputs: its arguments.
    :ivar signature: how it is called.
    :ivar steps: its operations, in the order in which they run.
    :ivar returned: what it returns, with nodes in place of values.
    :ivar free: operations that compute sizes and the like from the inputs alone.
    :ivar cuts: the places among `steps` of those whose result is one tensor, and with the inputs all that later ones
        need.
    """

    root: nn.Module
    inputs: tuple[fx.Node, ...]
    signature: inspect.Signature
    steps: tuple[fx.Node, ...]
    returned: Any
    free: frozenset[fx.Node]
    cuts: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, whole: Collection[str] = ()) -> NetworkGraph:
        """Follow a network's code.

        :param batch: the network runs on it once, and leaves no trace.
        :param whole: the names of modules that are taken as they are, whatever their code does.
        :raises ReconError: if the code cannot be followed.
        """
        graph = _trace(model, whole)
        nodes = tuple(graph.nodes)
        inputs = tuple(node for node in nodes if node.op == "placeholder")
        steps = tuple(node for node in nodes if node.op not in ("placeholder", "get_attr", "output"))
        module = fx.GraphModule(model, graph)
        signature = inspect.signature(module.forward)
        watched = _Watched(module)
        with user_code("the model"), torch.no_grad(), leaving_no_trace(model):
            batch.call(lambda *args, **kwargs: watched.run(*bound(signature, args, kwargs)))
        watched.check_inputs()
        _follow_writes(nodes, watched)
        free = _free(inputs, steps, watched)
        return cls(model, inputs, signature, steps, nodes[-1].args[0], free, _cuts(steps, free, watched))

    def states_at(self, node: fx.Node) -> tuple[str, ...]:
        """The names of the modules with parameters or buffers that an operation runs, and of those that it reads."""
        if node.op == "call_module":
            name = str(node.target)
            return (name,) if self.root.get_submodule(name).state_dict() else ()
        return tuple(str(source.target) for source in node.all_input_nodes if source.op == "get_attr")

    def needed(self, steps: Sequence[fx.Node], result: Any) -> tuple[fx.Node, ...]:
        """Those of some operations that a result depends on, and those that write to what these work with."""
        wanted: set[fx.Node] = set(tree_nodes(result))
        for node in reversed(steps):
            if node in wanted:
                wanted.update(node.all_input_nodes)
        own = wanted & set(steps)
        return tuple(
            node for node in steps if node in own or (not node.users and own.intersection(node.all_input_nodes))
        )

    def part(self, steps: Iterable[fx.Node], feature: fx.Node | None, result: Any) -> fx.GraphModule:
        """Some operations as a module with the network's own modules: called with a tensor and the inputs.

        :param feature: whose value the tensor stands for; None if it is not read.
        :param result: what it returns, with nodes in place of values.
        """
        graph = fx.Graph()
        known = {}
        for node, name in ((feature, "feature"), *((node, node.name) for node in self.inputs)):
            stand_in = graph.placeholder(name)
            if node is not None:
                known[node] = stand_in

        def mapped(node: fx.Node) -> fx.Node:
            if node not in known:
                # Parameters, and sizes and the like, which every part computes for itself.
                assert node.op == "get_attr" or node in self.free
                known[node] = graph.node_copy(node, mapped)
            return known[node]

        for node in steps:
            if node not in self.free:
                known[node] = graph.node_copy(node, mapped)
        graph.output(fx.map_arg(result, mapped))
        return fx.GraphModule(self.root, graph)


def bound(signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The values of all parameters of a signature, in its order."""
    found = signature.bind(*args, **kwargs)
    found.apply_defaults()
    return tuple(found.arguments.values())


def tree_nodes(value: Any) -> list[fx.Node]:
    """The nodes in whatever stands for a value."""
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    return found


def _trace(model: nn.Module, whole: Collection[str]) -> fx.Graph:
    """Follow the code; modules whose own code cannot be followed are taken as they are."""
    taken = set(whole)
    while True:
        tracer = _Tracer(taken)
        try:
            return tracer.trace(model)
        # It runs the code on stand-ins for values, which may fail in any way.
        except Exception as error:
            if tracer.failed is None:
                raise ReconError(
                    f"the network's code cannot be followed: {describe(error)}",
                    "let the code of the network itself, outside of its modules, not depend on values of tensors",
                ) from error
            taken.add(tracer.failed)


class _Tracer(fx.Tracer):
    """Follows code down to PyTorch's own modules, and those that are taken as they are.

    :ivar failed: the innermost module whose code could not be followed, if one was.
    """

    def __init__(self, whole: Collection[str]) -> None:
        super().__init__()
        self._whole = whole
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


class _Watched(fx.Interpreter):
    """Runs a graph, and notes every value and how often it had been written to when it was new."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._values: dict[str, Any] = {}
        self._versions: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._values[n.name] = value
        if isinstance(value, torch.Tensor):
            self._versions[n.name] = value._version
        return value

    def has_tensors(self, node: fx.Node) -> bool:
        return any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(self._values[node.name]))

    def is_settled(self, node: fx.Node) -> bool:
        """Whether the value is one tensor that no later operation writes to."""
        value = self._values[node.name]
        return isinstance(value, torch.Tensor) and value._version == self._versions[node.name]

    def written_by(self, node: fx.Node) -> fx.Node | None:
        """Whose value an operation has written to and returned."""
        value = self._values[node.name]
        for source in node.all_input_nodes:
            if self._values[source.name] is value and self._versions.get(source.name) != self._versions.get(node.name):
                return source
        return None

    def check_inputs(self) -> None:
        for node in self.module.graph.nodes:  # type: ignore[union-attr]  # a GraphModule's
            if node.op == "placeholder" and self.has_tensors(node) and not self.is_settled(node):
                raise ReconError(
                    "the model changes its input in place, but all candidates have to see the same input",
                    "let it work on a copy: `x = x.clone()`",
                )


def _follow_writes(nodes: Sequence[fx.Node], watched: _Watched) -> None:
    """Let what comes after an operation in place read its result, where the code goes on with what it wrote to."""
    for place, node in enumerate(nodes[:-1]):
        source = watched.written_by(node)
        if source is not None:
            for user in nodes[place + 1 :]:
                user.replace_input_with(source, node)


def _free(inputs: Sequence[fx.Node], steps: Sequence[fx.Node], watched: _Watched) -> frozenset[fx.Node]:
    found: set[fx.Node] = set()
    known = set(inputs)
    for node in steps:
        if known.issuperset(node.all_input_nodes) and not watched.has_tensors(node):
            found.add(node)
            known.add(node)
    return frozenset(found)


def _cuts(steps: Sequence[fx.Node], free: frozenset[fx.Node], watched: _Watched) -> tuple[int, ...]:
    places = {node: place for place, node in enumerate(steps)}
    cuts = []
    needed_until = -1
    for place, node in enumerate(steps):
        if node in free:
            continue
        # What the network returns is needed after all operations.
        last = max((places.get(user, len(steps)) for user in node.users), default=place)
        if needed_until <= place and last > place and watched.is_settled(node):
            cuts.append(place)
        needed_until = max(needed_until, last)
    return tuple(cuts)
