"""Writing the graph of a new TorchScript module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.jit import _recursive

from recon_cli.branching.programs.torchscript.tree import BranchedTree

_wrapped: Any = _recursive.wrap_cpp_module


class ScriptWriter:
    """The graph of a tree's `forward`, which is written from its beginning to its end.

    :param tree: its `forward` has the inputs and the output of the graph that is written, and is emptied first.
    :ivar given: what the caller gives.
    """

    def __init__(self, tree: BranchedTree) -> None:
        self._tree = tree
        self._graph = tree.root._get_method("forward").graph
        for _ in list(self._graph.outputs()):
            self._graph.eraseOutput(0)
        for node in reversed(list(self._graph.nodes())):
            node.destroy()
        self._root, *self.given = self._graph.inputs()
        self._constants: dict[int, Any] = {}
        self._modules: dict[str, Any] = {"": self._root}
        self._read: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """A module of the tree."""
        if name not in self._modules:
            owner, _, own = name.rpartition(".")
            self._modules[name] = self._attribute(self.module(owner), own, self._tree.module(name)._type())
        return self._modules[name]

    def read(self, name: str, kind: Any) -> Any:
        """An attribute of a module of the tree, as it is when the graph begins.

        :param kind: its type.
        """
        if name not in self._read:
            owner, _, own = name.rpartition(".")
            self._read[name] = self._attribute(self.module(owner), own, kind)
        return self._read[name]

    def set(self, name: str, value: Any) -> None:
        """Set an attribute of a module of the tree."""
        owner, _, own = name.rpartition(".")
        node = self._graph.create("prim::SetAttr", [self.module(owner), value], 0)
        node.s_("name", own)
        self._graph.appendNode(node)

    def constant(self, value: Any) -> Any:
        """A constant of another graph."""
        if value.unique() not in self._constants:
            (self._constants[value.unique()],) = self.copy(value.node(), lambda each: each)
        return self._constants[value.unique()]

    def copy(self, node: Any, stands_for: Callable[[Any], Any]) -> list[Any]:
        """Append a copy of another graph's operation.

        :param stands_for: what stands for a value of that graph that the operation or its blocks use.
        :returns: what it gives.
        """
        made = self._graph.createClone(node, stands_for)
        self._graph.appendNode(made)
        return list(made.outputs())

    def apply(self, name: str, *values: Any) -> Any:
        """Append an operation that gives one value, or nothing."""
        return self._graph.insert(name, list(values))

    def gather(self, name: str, values: Iterable[Any], kind: Any) -> Any:
        """Append an operation that puts values together, such as `prim::TupleConstruct`."""
        node = self._graph.create(name, list(values), 1)
        node.output().setType(kind)
        self._graph.appendNode(node)
        return node.output()

    def take_apart(self, value: Any, kinds: Sequence[Any]) -> list[Any]:
        """The values in a tuple.

        :param kinds: their types.
        """
        node = self._graph.create("prim::TupleUnpack", [value], len(kinds))
        for output, kind in zip(node.outputs(), kinds, strict=True):
            output.setType(kind)
        self._graph.appendNode(node)
        return list(node.outputs())

    def literal(self, value: str | int) -> Any:
        """A text or number as a constant."""
        return self._graph.insertConstant(value)

    def finish(self, value: Any) -> Any:
        """Return a value, and end the graph.

        :returns: the module.
        """
        self._graph.registerOutput(value)
        self._graph.lint()
        return _wrapped(self._tree.root)

    def _attribute(self, owner: Any, name: str, kind: Any) -> Any:
        node = self._graph.create("prim::GetAttr", [owner], 1)
        node.s_("name", name)
        node.output().setType(kind)
        self._graph.appendNode(node)
        return node.output()
