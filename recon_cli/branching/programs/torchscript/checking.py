"""Comparing the streams of two graphs, task by task."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from recon_cli.branching.programs.liveness import live_nodes
from recon_cli.branching.programs.torchscript.forking import outputs_of_tasks, ownership
from recon_cli.branching.programs.torchscript.normalising import ScriptGraph
from recon_cli.branching.programs.torchscript.reading import Reading, read_graph
from recon_cli.errors import ReconError, quoted

_TRANSPARENT = ("aten::clone", "aten::list", "aten::copy", "prim::unchecked_cast", "prim::TupleUnpack")
"""Operations that give what they are given: whatever a fork copies, the values are the same."""


class _Numbers:
    """Numbers of what is computed: what is computed alike has one number."""

    def __init__(self) -> None:
        self._known: dict[object, int] = {}
        self._parts: dict[int, Sequence[object]] = {}

    def of(self, *what: object) -> int:
        """The number of a computation."""
        return self._known.setdefault(what, len(self._known))

    def of_tuple(self, values: Sequence[object]) -> int:
        """The number of a tuple."""
        number = self.of("prim::TupleConstruct", tuple(values))
        self._parts[number] = values
        return number

    def of_part(self, number: int, at: int) -> int:
        """The number of one of several values; which tuples they were in meanwhile makes no difference."""
        part = self._parts[number][at] if number in self._parts else None
        return part if isinstance(part, int) else self.of("part", number, at)


def check_streams(
    before: ScriptGraph, after: ScriptGraph, tasks: Sequence[str], place: Callable[[str, str], str]
) -> None:
    """Check that every task's outputs are computed alike in two graphs.

    The same operations have to give the outputs, from memory to which the same ones have written last. What a graph
    does not put together in the open is not looked at.

    :param place: for the name of an attribute and a task, where the task's stream in the second graph finds it.
    :raises ReconError: naming a task for which it is not so.
    """
    first, second = read_graph(before), read_graph(after)
    if not first.is_open:
        return
    numbers = _Numbers()
    streams, others = _streams(first, tasks), _streams(second, tasks)
    for task in tasks:
        wanted = _Stream(first, *streams[task], {name: name for name in before.leaves}, numbers).does()
        found = _Stream(second, *others[task], {place(name, task): name for name in before.leaves}, numbers).does()
        # Another task's operations on what is still shared may be counted to the stream as well. If they write to what
        # it reads, it computes something else.
        does_all = _are_among(wanted.writes, found.writes) and wanted.checks <= found.checks
        if found.gives != wanted.gives or not does_all:
            raise ReconError(f"the graph would compute something else for task {quoted(task)}")


def _streams(reading: Reading, tasks: Sequence[str]) -> dict[str, tuple[Sequence[Node], set[Node]]]:
    """For each task, the nodes of its outputs, and those of its stream."""
    outputs = outputs_of_tasks(reading, tasks)
    live = live_nodes(reading.memory, outputs, ownership(reading))
    return {task: (outputs[task], live[task]) for task in tasks}


def _are_among(wanted: Iterable[int], found: Iterable[int]) -> bool:
    """Whether numbers are among others in the same order."""
    rest = iter(found)
    return all(number in rest for number in wanted)


@dataclass(frozen=True)
class _Deeds:
    """What a stream does, in numbers.

    :ivar gives: the task's outputs.
    :ivar writes: its operations that write to memory, in their order.
    :ivar checks: those that do something else.
    """

    gives: list[object]
    writes: list[int]
    checks: frozenset[int]


class _Stream:
    """What one task's stream computes.

    :param outputs: the nodes of the task's outputs.
    :param live: those of the stream.
    :param names: for the attributes that it may use, what they are called in the first graph.
    :param numbers: of all that was computed so far, in this stream and others.
    """

    def __init__(
        self,
        reading: Reading,
        outputs: Sequence[Node],
        live: set[Node],
        names: Mapping[str, str],
        numbers: _Numbers,
    ) -> None:
        self._reading = reading
        self._outputs = outputs
        self._live = live
        self._numbers = numbers
        self._found: dict[Node, int] = {}
        # The operations that have written to memory last, by what has allocated it.
        self._last: dict[Node, int] = {}
        for at, value in enumerate(reading.script.given):
            self._found[reading.inputs[value.unique()]] = self._numbers.of("given", at)
        for name, leaf in reading.script.leaves.items():
            # What another task uses has a name that nothing in the first graph has.
            self._found[reading.inputs[leaf.unique()]] = self._numbers.of("attribute", names.get(name, f".{name}"))

    def does(self) -> _Deeds:
        """What it does."""
        memory = self._reading.memory
        writes, checks = [], []
        for node in memory.graph.nodes:
            if node.op == "placeholder":
                self._found.setdefault(node, self._numbers.of("constant", _told(node.meta["value"])))
            elif node in self._live:
                number = self._operation(node)
                self._found[node] = number
                if memory.written(node):
                    writes.append(number)
                    self._note_writes(node, number)
                elif memory.acts(node):
                    checks.append(number)
        return _Deeds([self._read(node) for node in self._outputs], writes, frozenset(checks))

    def _note_writes(self, node: Node, number: int) -> None:
        memory = self._reading.memory
        written = [value for value in memory.written(node) if value not in memory.moved(node)]
        self._last.update((storage, number) for value in written for storage in memory.touched(value))
        if written and isinstance(node.target, torch._ops.OpOverload):
            # What is written in place is returned.
            self._found[node] = self._found[written[0]]

    def _input(self, argument: object, moved: Sequence[Node]) -> object:
        """What is known of an operation's argument; None of a constant."""
        if not isinstance(argument, Node):
            return None
        return self._found[argument] if argument in moved else self._read(argument)

    def _read(self, node: Node) -> object:
        """The number of a value, and those of the operations that have written to its memory last."""
        last = {self._last[storage] for storage in self._reading.memory.storages(node) if storage in self._last}
        return (self._found[node], *sorted(last)) if last else self._found[node]

    def _operation(self, node: Node) -> int:
        memory = self._reading.memory
        if node.target is operator.getitem:
            source, at = node.args
            assert isinstance(source, Node) and isinstance(at, int)
            return self._numbers.of_part(self._found[source], at)
        moved = memory.moved(node)
        inputs = [self._input(each, moved) for each in node.args]
        if "container" in node.meta:
            container, slots = node.meta["container"]
            held = [(slot.key, _value(number, slot.value)) for slot, number in zip(slots, inputs, strict=True)]
            return self._numbers.of(container.node().kind(), *held)
        script = node.meta["script"]
        if script.kind() in _TRANSPARENT and isinstance(node.args[0], Node):
            self._last.update((node, self._last[each]) for each in memory.storages(node.args[0]) if each in self._last)
            return self._found[node.args[0]]
        used = zip(node.meta["used"], inputs, strict=True)
        values = {each.unique(): _value(number, each) for each, number in used}
        if script.kind() == "prim::TupleConstruct":
            return self._numbers.of_tuple([values[each.unique()] for each in script.inputs()])
        return self._numbers.of(*_signature(script, values))


def _value(number: object, value: Any) -> object:
    """A number, or the constant that has none."""
    return _told(value) if number is None else number


def _signature(script: Any, values: dict[int, object], fresh: Iterator[int] | None = None) -> tuple[object, ...]:
    """What an operation does to which values, written out.

    :param values: what is known of those that come from outside; those within are added.
    :param fresh: numbers for those within.
    """
    fresh = fresh or itertools.count()

    def known(all_values: Iterable[Any]) -> tuple[object, ...]:
        return tuple(values[each.unique()] if each.unique() in values else _told(each) for each in all_values)

    inputs = known(script.inputs())
    blocks = []
    for block in script.blocks():
        values.update((each.unique(), ("within", next(fresh))) for each in block.inputs())
        inner = [_signature(node, values, fresh) for node in block.nodes() if node.kind() != "prim::Constant"]
        blocks.append((*inner, known(block.outputs())))
    values.update((each.unique(), ("within", next(fresh))) for each in script.outputs())
    return (script.kind(), inputs, *blocks)


def _told(constant: Any) -> str:
    """A constant, written out."""
    return f"{constant.type().annotation_str} {constant.toIValue()!r}"
