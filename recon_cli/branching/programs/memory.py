"""What the operations of a graph write to, and which of its values may lie in the same memory."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves

from recon_cli.dataflow.aten import aliases_of, argument_of, name_of, statistics_of

_EVALUATING = {
    "dropout": 2, "feature_dropout": 2, "alpha_dropout": 2, "feature_alpha_dropout": 2,
}  # fmt: skip
"""Operations that return their input itself unless the argument at this position is true; their schemas do not say."""

_MAY_COPY = {"reshape", "reshape_as", "flatten", "contiguous", "to", "type_as"}
"""Operations that return a view, or else a copy."""

_VIEWING = {"atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "meshgrid"}
"""Operations that return views of their inputs although their schemas do not say so."""


class Memory(ABC):
    """The memory of a graph's values, and what the graph's operations do to it.

    :ivar graph: in topological order, as every graph of `torch.fx` is.
    """

    def __init__(self, graph: Graph, written: Mapping[Node, Sequence[Node]]) -> None:
        self.graph = graph
        self._written = written
        self._storages: dict[Node, frozenset[Node]] = {}

    def storages(self, node: Node) -> frozenset[Node]:
        """The nodes that have allocated what a node's value may lie in; itself if it is new memory."""
        return self._storages[node]

    def aliases(self, storage: Node) -> list[Node]:
        """The nodes whose values may lie in the memory that a node has allocated, in the graph's order."""
        return [node for node in self.graph.nodes if storage in self._storages[node]]

    def written(self, node: Node) -> Sequence[Node]:
        """The inputs whose values a node writes to."""
        return self._written[node]

    def read(self, node: Node) -> list[Node]:
        """The inputs on which a node's value depends."""
        moved = self.moved(node)
        return [value for value in node.all_input_nodes if value not in moved]

    def touched(self, value: Node) -> frozenset[Node]:
        """The nodes that have allocated what changes when a node writes to a value; all that it may lie in."""
        return self._storages[value]

    @abstractmethod
    def copier(self, storage: Node) -> Callable[..., object] | None:
        """The operation that copies what a node has allocated; None if nothing does."""

    @abstractmethod
    def moved(self, node: Node) -> Sequence[Node]:
        """The running statistics that an operation moves, one step at a time: a BatchNorm's when it trains."""

    @abstractmethod
    def acts(self, node: Node) -> bool:
        """Whether a node is there for what it does, though it gives and writes nothing: a check, for instance."""

    @abstractmethod
    def is_view(self, node: Node) -> bool:
        """Whether a node does nothing but look at its inputs' memory in another way."""

    @abstractmethod
    def may_copy(self, node: Node) -> bool:
        """Whether what may be a view of its input may also be a copy of it, as with `reshape`."""

    @abstractmethod
    def returns_written(self, node: Node) -> bool:
        """Whether what a node gives is what it has written to."""


class GraphMemory(Memory):
    """The memory of a graph of ATen's operations, as their schemas tell."""

    def __init__(self, graph: Graph) -> None:
        self._graphs: dict[Node, set[int] | None] = {}
        self.graph = graph
        super().__init__(graph, {node: self._find_written(node) for node in graph.nodes})
        self._find_storages()

    def moved(self, node: Node) -> list[Node]:
        """The running statistics that an operation moves."""
        return statistics(node)

    def acts(self, node: Node) -> bool:
        """Whether a node is there for what it does."""
        return isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.returns

    def may_copy(self, node: Node) -> bool:
        """Whether what may be a view of its input may also be a copy of it."""
        return node.target is not operator.getitem and _name(node) in _MAY_COPY

    def returns_written(self, node: Node) -> bool:
        """Whether what a node gives is what it has written to; so it is with ATen's operations in place."""
        return isinstance(node.target, torch._ops.OpOverload)

    def copier(self, storage: Node) -> Callable[..., object] | None:
        """The operation that copies what a node has allocated; None if it is several tensors, which are taken apart."""
        is_tensor = all(user.target is not operator.getitem for user in storage.users)
        return torch.ops.aten.clone.default if is_tensor else None

    def is_view(self, node: Node) -> bool:
        """Whether a node does nothing but look at its inputs' memory in another way."""
        is_operation = isinstance(node.target, torch._ops.OpOverload) or node.target is operator.getitem
        return is_operation and node not in self._storages[node] and not self.written(node)

    def _find_storages(self) -> None:
        for node in self.graph.nodes:
            shared = frozenset[Node]().union(*(self._storages[source] for source in self._aliased(node)))
            self._storages[node] = frozenset([node]) if not shared or self._is_one_of_several(node) else shared

    def _is_one_of_several(self, node: Node) -> bool:
        """Whether a node gives one of several tensors that an operation has allocated, each by itself."""
        if node.target is not operator.getitem:
            return False
        (maker,) = node.all_input_nodes
        return isinstance(maker.target, torch._ops.OpOverload) and self._storages[maker] == {maker}

    def _find_written(self, node: Node) -> list[Node]:
        if node.op != "call_function":
            return []
        if isinstance(node.target, torch._ops.OpOverload):
            declared = [value for value, is_written in _aliases(node) if is_written]
            return list(dict.fromkeys([*declared, *statistics(node)]))
        return [operand for operand, inner in self._operands(node) if inner]

    def _aliased(self, node: Node) -> list[Node]:
        if node.op != "call_function":
            return []
        if node.target is operator.getitem:
            return node.all_input_nodes[:1]
        if isinstance(node.target, torch._ops.OpOverload):
            name = _name(node)
            evaluates = name in _EVALUATING and not _argument(node, _EVALUATING[name])
            if evaluates or name in _VIEWING:
                return node.all_input_nodes
            return [value for value, _ in _aliases(node)]
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            # What comes out of a graph may be what went into it.
            return [operand for operand, _ in self._operands(node)]
        return []

    def _operands(self, node: Node) -> Iterator[tuple[Node, bool]]:
        """What an operation that calls graphs hands to them, and whether one of them writes to it."""
        graphs = [graph for source in node.all_input_nodes if (graph := self._called(source)) is not None]
        written = {at for graph in graphs for at in graph}
        leaves = tree_leaves(node.args)
        first = max((at for at, leaf in enumerate(leaves) if self._is_graph(leaf)), default=-1) + 1
        for at, leaf in enumerate(leaves[first:]):
            if isinstance(leaf, Node):
                yield leaf, at in written

    def _is_graph(self, leaf: object) -> bool:
        return isinstance(leaf, Node) and self._called(leaf) is not None

    def _called(self, node: Node) -> set[int] | None:
        """The positions of the inputs that the graph of a node writes to; None if the node is no graph."""
        if node.op != "get_attr":
            return None
        if node not in self._graphs:
            owner = self.graph.owning_module
            found = None if owner is None else getattr(owner, str(node.target), None)
            self._graphs[node] = _written_inputs(found.graph) if isinstance(found, GraphModule) else None
        return self._graphs[node]


def statistics(node: Node) -> list[Node]:
    """The running statistics that an operation moves, one step at a time: a BatchNorm's when it trains."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return []
    return [value for value in statistics_of(node.target, node.args, node.kwargs) if isinstance(value, Node)]


def _written_inputs(graph: Graph) -> set[int]:
    memory = GraphMemory(graph)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    written = {storage for node in graph.nodes for value in memory.written(node) for storage in memory.storages(value)}
    return {at for at, node in enumerate(inputs) if node in written}


def _aliases(node: Node) -> Iterator[tuple[Node, bool]]:
    """The inputs that an operation's schema says it writes to or returns views of, and whether it writes."""
    assert isinstance(node.target, torch._ops.OpOverload)
    return (alias for alias in aliases_of(node.target, node.args, node.kwargs) if isinstance(alias[0], Node))


def _name(node: Node) -> str:
    assert isinstance(node.target, torch._ops.OpOverload)
    return name_of(node.target)


def _argument(node: Node, at: int) -> object:
    assert isinstance(node.target, torch._ops.OpOverload)
    return argument_of(node.target, node.args, node.kwargs, at)
