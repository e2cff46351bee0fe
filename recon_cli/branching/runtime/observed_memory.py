"""What the operations of a traced network do to memory, seen by running them once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves

from recon_cli.branching.programs.memory import Memory
from recon_cli.branching.runtime.functions import writes_silently


class ObservedMemory(Memory):
    """The memory of a graph of any functions, for inputs of the sizes and strides that it was run on.

    :param module: the graph. What it writes to is written to.
    :param inputs: what it is run on.
    :param buffers: the inputs that are buffers, which operations may write to without counting it.
    :ivar results: what the graph returned.
    """

    def __init__(self, module: GraphModule, inputs: Sequence[Any], buffers: Collection[Node]) -> None:
        run = _Run(module, buffers)
        self.results: Sequence[Any] = run.run(*inputs)
        super().__init__(module.graph, run.written)
        self._storages.update(run.storages)
        self._moved = run.moved
        self._acting = run.acting
        self._returning = run.returning
        self._single = run.single

    def copier(self, storage: Node) -> Callable[..., object] | None:
        """The operation that copies what a node has allocated; None if it was more than one tensor."""
        return torch.ops.aten.clone.default if storage in self._single else None

    def moved(self, node: Node) -> Sequence[Node]:
        """The running statistics that an operation moves."""
        return self._moved.get(node, ())

    def acts(self, node: Node) -> bool:
        """Whether a node gives and writes nothing."""
        return node in self._acting

    def is_view(self, node: Node) -> bool:
        """Whether a node does nothing but look at its inputs' memory in another way."""
        return node.op.startswith("call_") and node not in self._storages[node] and not self.written(node)

    def may_copy(self, node: Node) -> bool:  # noqa: ARG002 - it was seen what each does with such inputs
        """Nothing that was seen to be a view copies inputs that lie in memory in the same way."""
        return False

    def returns_written(self, node: Node) -> bool:
        """Whether what a node gives is what it has written to."""
        return node in self._returning


class _Run(Interpreter):
    """Runs a graph, and looks at each operation's arguments before and after it.

    :ivar storages: for every node, the nodes that have allocated what its value lies in.
    :ivar written: for every node, the inputs that it has written to.
    :ivar moved: those that it has written to without counting it.
    :ivar acting: nodes that give and write nothing.
    :ivar returning: nodes that give what they have written to.
    :ivar single: nodes that give one tensor.
    """

    def __init__(self, module: GraphModule, buffers: Collection[Node]) -> None:
        # Memory that is freed could be taken for that which comes after it.
        super().__init__(module, garbage_collect_values=False)
        self._buffers = buffers
        self._allocated: dict[int, Node] = {}
        self.storages: dict[Node, frozenset[Node]] = {}
        self.written: dict[Node, list[Node]] = {}
        self.moved: dict[Node, list[Node]] = {}
        self.acting: set[Node] = set()
        self.returning: set[Node] = set()
        self.single: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        versions = {value: self._versions(value) for value in n.all_input_nodes}
        silent = _is_silent(n)
        silent_values = {v: self.env[v].clone() for v in n.all_input_nodes if silent and v in self._buffers}
        result = super().run_node(n)
        counted = [value for value, before in versions.items() if self._versions(value) != before]
        changed = any(not torch.equal(self.env[value], before) for value, before in silent_values.items())
        moved = [value for value in silent_values if changed and value not in counted]
        self.written[n] = [*counted, *moved]
        # What a whole graph inside a node does to a buffer may be more than a step of it.
        if moved and not _runs_graphs(n):
            self.moved[n] = moved
        tensors = _tensors(result)
        found = [self._allocated.setdefault(_memory(tensor), n) for tensor in tensors if _memory(tensor)]
        self.storages[n] = frozenset(found) if found else frozenset([n])
        if n.op.startswith("call_") and result is None and not self.written[n]:
            self.acting.add(n)
        if any(result is self.env[value] for value in counted):
            self.returning.add(n)
        if isinstance(result, torch.Tensor):
            self.single.add(n)
        return result

    def _versions(self, value: Node) -> list[int]:
        return [tensor._version for tensor in _tensors(self.env[value])]


def _tensors(value: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_silent(node: Node) -> bool:
    return _runs_graphs(node) or (callable(node.target) and writes_silently(node.target))


def _runs_graphs(node: Node) -> bool:
    return any(source.op == "get_attr" for source in node.all_input_nodes)
