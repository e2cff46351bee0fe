"""TorchScript's graphs read as graphs of `torch.fx`, with what their operations do to memory."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph, Node

from recon_cli.branching.programs.torchscript.containers import FilledContainers, Slot, written
from recon_cli.branching.programs.torchscript.memory import (
    Copier,
    ScriptMemory,
    Traits,
    copy_dictionary,
    copy_list,
    copy_tensor,
    operation,
    traits,
)
from recon_cli.branching.programs.torchscript.normalising import ScriptGraph
from recon_cli.branching.programs.torchscript.types import holding, holding_any, is_dictionary, is_list
from recon_cli.errors import ReconError, quoted

_ARRANGING = frozenset(
    {
        "prim::ListConstruct", "prim::TupleConstruct", "prim::DictConstruct", "prim::TupleUnpack", "prim::ListUnpack",
        "prim::TupleIndex", "prim::TupleSlice", "prim::unchecked_cast", "prim::unchecked_unwrap_optional",
        "aten::_unwrap_optional", "aten::__getitem__",
    }
)  # fmt: skip
"""Operations that put values together or take them apart."""

_RENEWING = frozenset({"aten::list", "aten::copy"})
"""Operations that make another list or dictionary of the same values."""

_ACTING = frozenset({"prim::RaiseException", "prim::Print", "prim::SetAttr", "prim::Enter", "prim::Exit", "aten::warn"})

_OPERATION = re.compile(r"aten::(\w+)(?:\.(\w+))?\(")
_PLAIN_TYPE = re.compile(r"(?:Optional\[|List\[)*(?:Tensor|int|float|bool|complex|number|str|Device|Generator)\]*")
_CONSTANTS = (bool, int, float, str)


@dataclass(frozen=True)
class Part:
    """A part of what a graph returns.

    :ivar key: under which it stands in a dictionary; else None.
    :ivar node: what stands for its value; None for a constant.
    """

    key: str | None
    value: Any
    node: Node | None


@dataclass(frozen=True)
class Reading:
    """A graph, read.

    A node stands for one of three things, which it has with it: an operation of TorchScript's, `script`, with what that
    and its blocks use, `used`, which are the node's inputs; a value that goes in, `value`; or a list or dictionary that
    is filled in the open, as it is when something uses it: `container`, the value and what it holds.

    :ivar memory: of the graph of `torch.fx`.
    :ivar inputs: for the numbers of the graph's inputs, the nodes.
    :ivar parts: of what the graph returns; one that is all of it, if it does not put that together in the open.
    :ivar is_open: whether it does.
    :ivar updates: for the name of every attribute that is set, what it becomes.
    """

    script: ScriptGraph
    memory: ScriptMemory
    inputs: Mapping[int, Node]
    parts: tuple[Part, ...]
    is_open: bool
    updates: Mapping[str, Part]


def read_graph(script: ScriptGraph) -> Reading:
    """Read a graph.

    :raises ReconError: if it cannot be told what it does to memory.
    """
    containers = FilledContainers(script.graph)
    block = _Block(containers)
    inputs = {value.unique(): block.add_input(value) for value in list(script.graph.inputs())[1:]}
    for node in script.graph.nodes():
        block.add(node)
    slots = containers.put_together(script.output)
    parts = tuple(block.part(slot) for slot in (slots or (Slot(None, script.output),)))
    updates = {name: block.part(Slot(None, value)) for name, value in script.updates.items()}
    return Reading(script, ScriptMemory(block.graph), inputs, parts, slots is not None, updates)


class _Block:
    """A graph or block that becomes a graph of `torch.fx`.

    :param containers: those that are filled in the open.
    :ivar captured: for what comes from outside, though it is no input, TorchScript's values.
    """

    def __init__(self, containers: FilledContainers | None = None) -> None:
        self.graph = Graph()
        self.nodes: dict[int, Node] = {}
        self.captured: dict[Node, Any] = {}
        self._containers = containers
        self._filled: dict[tuple[int, ...], Node] = {}

    def add_input(self, value: Any) -> Node:
        """Add an input."""
        with self.graph.inserting_before():
            node = self.graph.placeholder(re.sub(r"\W", "_", value.debugName()))
        node.meta = {"traits": Traits(holding(value.type()), _copier(value.type())), "value": value}
        self.nodes[value.unique()] = node
        return node

    def add(self, script: Any) -> None:
        """Add an operation."""
        outputs = list(script.outputs())
        if script.kind() == "prim::Constant" or (self._containers and self._is_of_container(script)):
            return
        target, found = self._described(script)
        used = [*script.inputs(), *_captured(script)]
        inputs = [self.argument(value, script) for value in used]
        name = script.kind().partition("::")[2]
        made = self.graph.create_node("call_function", target, tuple(inputs), name=name)
        made.meta = {"traits": found, "script": script, "used": used}
        if len(outputs) == 1:
            self.nodes[outputs[0].unique()] = made
            return
        for at, output in enumerate(outputs):
            part = self.graph.call_function(operator.getitem, (made, at))
            part.meta = {"traits": Traits(holding(output.type()), _copier(output.type()), arranges=True)}
            self.nodes[output.unique()] = part

    def argument(self, value: Any, user: Any) -> Node | bool | int | float | str | None:
        """What stands for a value where an operation uses it: a node, or a constant."""
        if value.node().kind() == "prim::Constant" and not holding(value.type()):
            constant = value.toIValue()
            return constant if isinstance(constant, _CONSTANTS) else None
        if self._containers and value in self._containers:
            return self._container(value, user)
        if value.unique() not in self.nodes:
            self.captured[self.add_input(value)] = value
        return self.nodes[value.unique()]

    def part(self, slot: Slot) -> Part:
        """What the graph has at its end."""
        found = self.argument(slot.value, None)
        return Part(slot.key, slot.value, found if isinstance(found, Node) else None)

    def _is_of_container(self, script: Any) -> bool:
        assert self._containers is not None
        return script in self._containers.fillers or any(value in self._containers for value in script.outputs())

    def _container(self, value: Any, user: Any) -> Node:
        assert self._containers is not None
        slots = self._containers.slots(value, user)
        state = (value.unique(), *(slot.value.unique() for slot in slots))
        if state not in self._filled:
            parts = tuple(self.argument(slot.value, user) for slot in slots)
            nodes = tuple(part for part in parts if isinstance(part, Node))
            node = self.graph.call_function(operation, parts)
            kind = Traits(holding(value.type()), _copier(value.type()), aliased=nodes, arranges=True)
            node.meta = {"traits": kind, "container": (value, slots)}
            self._filled[state] = node
        return self._filled[state]

    def _described(self, script: Any) -> tuple[Any, Traits]:
        """What an operation becomes, and what is known of it."""
        types = [value.type() for value in script.outputs()]
        kind = Traits(holding_any(types), _copier(types[0]) if len(types) == 1 else None)
        if (overload := _overload(script)) is not None:
            return overload, kind
        nodes = self._nodes(script.inputs(), script)
        held = tuple(node for node in nodes if traits(node).holding)
        if script.kind() in _ARRANGING:
            return operation, replace(kind, aliased=held, arranges=True)
        if blocks := list(script.blocks()):
            inner = [self._inner(block, script) for block in blocks]
            return operation, replace(
                kind,
                aliased=_together(each.aliased for each in inner),
                written=_together(each.written for each in inner),
                moved=_together(each.moved for each in inner),
                stored={
                    into: _together(each.stored.get(into, ()) for each in inner)
                    for into in _together(each.stored for each in inner)
                },
                acts=any(each.acts for each in inner),
            )
        if script.kind() in _RENEWING and not holding_any(types[0].containedTypes()).containers:
            return operation, replace(kind, aliased=held, renews=True)
        if script.kind() == "prim::SetAttr" and not _is_torchs(script.inputsAt(0).type()):
            kind_of_object = script.inputsAt(0).type().annotation_str
            raise ReconError(f"the network keeps values in an object of its own class ({quoted(kind_of_object)})")
        changed = self._nodes(written(script), script)
        stored = {into: tuple(node for node in held if node is not into) for into in changed}
        acts = script.kind() in _ACTING or (not types and not changed)
        return operation, replace(kind, aliased=held, written=changed, stored=stored, acts=acts)

    def _nodes(self, values: Iterable[Any], user: Any) -> tuple[Node, ...]:
        arguments = [self.argument(value, user) for value in values]
        return tuple(argument for argument in arguments if isinstance(argument, Node))

    def _inner(self, block: Any, script: Any) -> Traits:
        """What a block of an operation does to what comes from outside."""
        reading = _Block()
        carried = [reading.add_input(value) for value in block.inputs()]
        for node in block.nodes():
            reading.add(node)
        results = [reading.argument(value, None) for value in block.outputs()]
        memory = ScriptMemory(reading.graph)
        changed: set[Node] = set()
        moved: set[Node] = set()
        for node in reading.graph.nodes:
            for value in memory.written(node):
                (moved if value in memory.moved(node) else changed).update(memory.touched(value))
        returned = {each for result in results if isinstance(result, Node) for each in memory.storages(result)}
        # A value that goes round may be any that went in.
        entering = tuple(node for node in self._nodes(script.inputs(), script) if traits(node).holding)
        outside = {inner: self._nodes([value], script) for inner, value in reading.captured.items()}
        outside.update(dict.fromkeys(carried, entering))

        def outer(storages: Iterable[Node]) -> tuple[Node, ...]:
            return _together(outside.get(storage, ()) for storage in storages)

        return Traits(
            aliased=outer(returned),
            written=outer(changed),
            moved=outer(moved - changed),
            stored={
                into: outer(memory.storages(inner)) for inner in outside if inner in changed for into in outside[inner]
            },
            acts=any(memory.acts(node) for node in reading.graph.nodes),
        )


def _captured(script: Any) -> list[Any]:
    """The values from outside that the blocks of an operation use."""
    found: dict[int, Any] = {}
    own: set[int] = set()

    def visit(block: Any) -> None:
        own.update(value.unique() for value in block.inputs())
        for node in block.nodes():
            found.update((value.unique(), value) for value in node.inputs())
            for inner in node.blocks():
                visit(inner)
            own.update(value.unique() for value in node.outputs())
        found.update((value.unique(), value) for value in block.outputs())

    for block in script.blocks():
        visit(block)
    return [value for number, value in found.items() if number not in own]


def _overload(script: Any) -> Any:
    """The operation of ATen's that tells by its schema all that it does to memory; None if it is none."""
    found = _OPERATION.match(script.schema())
    if found is None:
        return None
    overload = getattr(getattr(torch.ops.aten, found[1], None), found[2] or "default", None)
    if not isinstance(overload, torch._ops.OpOverload):
        return None
    arguments = overload._schema.arguments
    plain = all(_PLAIN_TYPE.fullmatch(str(each.type)) for each in (*arguments, *overload._schema.returns))
    if not plain:
        return None
    for each in arguments:
        if each.alias_info is not None and each.alias_info.is_write and "List[" in str(each.type):
            raise ReconError(f"the network writes into the tensors of a list ({quoted(script.kind())})")
    return overload


def _is_torchs(kind: Any) -> bool:
    """Whether a class is one of PyTorch's own, such as those that switch gradients off for a while."""
    return bool(kind.annotation_str.startswith("__torch__.torch."))


def _copier(kind: Any) -> Copier | None:
    if kind.kind() == "TensorType":
        return copy_tensor
    return copy_list if is_list(kind) else copy_dictionary if is_dictionary(kind) else None


def _together(groups: Iterable[Iterable[Node]]) -> tuple[Node, ...]:
    return tuple(dict.fromkeys(node for group in groups for node in group))
