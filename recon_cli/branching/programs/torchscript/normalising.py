"""The graph of a TorchScript module as a function: what it reads of the module becomes its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from recon_cli.errors import ReconError, quoted

_ATTRIBUTES = ("prim::GetAttr", "prim::SetAttr")
_CALLS = frozenset({"prim::CallMethod", "prim::CallFunction", "prim::ModuleContainerIndex", "prim::PythonOp"})


@dataclass(frozen=True)
class ScriptGraph:
    """The inlined graph of a module's `forward`.

    :ivar graph: TorchScript's graph; its inputs are the module, what the caller gives, and `leaves`.
    :ivar given: the inputs that the caller gives.
    :ivar leaves: for the dotted name of every attribute that is read, the input that stands for it. Modules are among
        them if an attribute of theirs is set within the control flow.
    :ivar updates: for the dotted name of every attribute that is set, its value at the end.
    :ivar rebound: the names of attributes that are set within the control flow; the graph still reads and sets them.
    """

    graph: Any
    given: tuple[Any, ...]
    leaves: Mapping[str, Any]
    updates: Mapping[str, Any]
    rebound: frozenset[str] = field(default=frozenset())

    @property
    def module(self) -> Any:
        """The module itself, which the graph uses if it sets attributes within the control flow."""
        return next(iter(self.graph.inputs()))

    @property
    def output(self) -> Any:
        """What the graph returns."""
        return next(iter(self.graph.outputs()))


def normalised(module: Any, *, simplified: bool = True) -> ScriptGraph:
    """The graph of a module, which is left alone.

    :param module: a `torch.jit.ScriptModule`.
    :param simplified: without the control flow that constants decide, and what nothing comes of.
    :raises ReconError: if it calls what cannot be put into one graph.
    """
    graph = module.inlined_graph
    if simplified:
        torch._C._jit_pass_constant_propagation_immutable_types(graph)  # type: ignore[attr-defined]  # torch has no type for it
    for node in _nodes_within(graph):
        if node.kind() in _CALLS:
            raise ReconError(f"the network calls a module that is only known when it runs ({quoted(node.kind())})")
    return _Normalising(graph, {name for name, _ in module.named_modules(remove_duplicate=False)}).result()


class _Normalising:
    def __init__(self, graph: Any, modules: set[str]) -> None:
        self._graph = graph
        self._modules = modules
        inputs = list(graph.inputs())
        self._given = tuple(inputs[1:])
        # The dotted name of the module that a value is.
        self._paths: dict[int, str] = {inputs[0].unique(): ""}
        self._leaves: dict[str, Any] = {}
        self._updates: dict[str, Any] = {}
        self._gone: list[Any] = []
        self._rebound = frozenset(self._set_within())

    def result(self) -> ScriptGraph:
        for node in list(self._graph.nodes()):
            self._visit(node, outermost=True)
        for node in reversed(self._gone):
            node.destroy()
        self._check_modules()
        for name in [name for name, leaf in self._leaves.items() if not leaf.uses() and name not in self._updates]:
            unused = self._leaves.pop(name).unique()
            self._graph.eraseInput([value.unique() for value in self._graph.inputs()].index(unused))
        self._graph.lint()
        return ScriptGraph(self._graph, self._given, self._leaves, self._updates, self._rebound)

    def _set_within(self) -> Iterator[str]:
        """The attributes that are set within the control flow."""
        paths = dict(self._paths)
        for node in _nodes_within(self._graph):
            name = self._name(node, paths)
            if name in self._modules and node.kind() == "prim::GetAttr":
                paths[node.output().unique()] = name
            if name and node.kind() == "prim::SetAttr" and node.owningBlock().owningNode() is not None:
                yield name

    def _name(self, node: Any, paths: Mapping[int, str]) -> str:
        """The dotted name of the attribute that a node reads or sets; the empty one for other nodes."""
        if node.kind() not in _ATTRIBUTES or node.inputsAt(0).unique() not in paths:
            return ""
        path = paths[node.inputsAt(0).unique()]
        return f"{path}.{node.s('name')}" if path else str(node.s("name"))

    def _visit(self, node: Any, *, outermost: bool) -> None:
        name = self._name(node, self._paths)
        if name and name not in self._rebound:
            if node.kind() == "prim::GetAttr":
                value = self._updates.get(name) or self._leaf(name, node.output())
                node.output().replaceAllUsesWith(value)
            else:
                assert outermost
                self._leaf(name, node.inputsAt(1))
                self._updates[name] = node.inputsAt(1)
            self._gone.append(node)
        for block in node.blocks():
            for inner in list(block.nodes()):
                self._visit(inner, outermost=False)

    def _check_modules(self) -> None:
        """Refuse operations other than those that read and set attributes to have modules."""
        modules = [leaf for name, leaf in self._leaves.items() if name in self._modules]
        for value in (next(iter(self._graph.inputs())), *modules):
            for use in value.uses():
                if use.user.kind() not in _ATTRIBUTES:
                    raise ReconError(f"the network hands a module to {quoted(use.user.kind())}")

    def _leaf(self, name: str, value: Any) -> Any:
        if name not in self._leaves:
            leaf = self._graph.addInput()
            leaf.setType(value.type())
            self._leaves[name] = leaf
            if name in self._modules:
                self._paths[leaf.unique()] = name
        return self._leaves[name]


def _nodes_within(block: Any) -> Iterator[Any]:
    """The nodes of a graph or block and of all blocks within it, in their order."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes_within(inner)
