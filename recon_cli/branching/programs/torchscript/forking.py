"""Forking the graph of a TorchScript module at split layers, its trunk once."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.programs.graph_fork import fork_graph
from recon_cli.branching.programs.liveness import Ownership
from recon_cli.branching.programs.torchscript.memory import copy_dictionary, copy_list, copy_tensor
from recon_cli.branching.programs.torchscript.normalising import ScriptGraph
from recon_cli.branching.programs.torchscript.outputs import joined, owners
from recon_cli.branching.programs.torchscript.places import Places
from recon_cli.branching.programs.torchscript.reading import Part, Reading, read_graph
from recon_cli.branching.programs.torchscript.tree import BranchedTree
from recon_cli.branching.programs.torchscript.types import is_dictionary, is_list
from recon_cli.branching.programs.torchscript.writing import ScriptWriter
from recon_cli.errors import ReconError, listed

_COPIES = {copy_tensor: "aten::clone", copy_list: "aten::list", copy_dictionary: "aten::copy"}
_CONSTANT = "a constant"


def fork_script(source: Any, script: ScriptGraph, plan: BranchingPlan) -> Any:
    """A module in which only what differs between the tasks is computed several times.

    :param source: a `torch.jit.ScriptModule`, which is left alone.
    :param script: its graph.
    :param plan: of its state dict.
    :raises ReconError: if the graph cannot be forked.
    """
    if script.rebound:
        raise ReconError(f"the network sets {listed(sorted(script.rebound))} within its control flow")
    reading = read_graph(script)
    return _Forking(BranchedTree(source, plan), reading, plan).module()


def ownership(reading: Reading, places: Places | None = None) -> Ownership:
    """Whose state the inputs of a graph are.

    :param places: of split layers, if any are split.
    """
    names = {reading.inputs[leaf.unique()]: name for name, leaf in reading.script.leaves.items()}
    given = {reading.inputs[value.unique()] for value in reading.script.given}
    inputs = [node for node in reading.memory.graph.nodes if node.op == "placeholder" and node not in given]
    split = {node: found for node, name in names.items() if places and (found := places.of_tasks(name))}
    updates = [
        (part.node, reading.inputs[reading.script.leaves[name].unique()])
        for name, part in reading.updates.items()
        if part.node is not None
    ]
    return Ownership({node: names.get(node, _CONSTANT) for node in inputs}, split, updates)


def outputs_of_tasks(reading: Reading, tasks: Sequence[str]) -> dict[str, list[Node]]:
    """For each task, the nodes of the parts that it has in what a graph returns; all of it, if that is one part."""
    nodes = [part.node for part in reading.parts]
    if not reading.is_open:
        return {task: [node for node in nodes if node is not None] for task in tasks}
    own = _owners(reading, tasks)
    return {
        task: [node for node, owner in zip(nodes, own, strict=True) if owner == task and node is not None]
        for task in tasks
    }


def _owners(reading: Reading, tasks: Sequence[str]) -> list[str]:
    return owners(reading.script.output.type(), [part.key for part in reading.parts], tasks)


class _Forking:
    def __init__(self, tree: BranchedTree, reading: Reading, plan: BranchingPlan) -> None:
        self._places = tree.places
        self._reading = reading
        self._tasks = plan.tasks
        outputs = outputs_of_tasks(reading, plan.tasks)
        self._fork = fork_graph(reading.memory, outputs, ownership(reading, tree.places))
        self._writer = ScriptWriter(tree)
        # TorchScript's values: of a node all that its operation gives.
        self._values: dict[Node, list[Any]] = {}

    def module(self) -> Any:
        self._put_inputs()
        for node in self._fork.graph.nodes:
            if node.op != "placeholder":
                self._values[node] = self._written(node)
        for name, part in self._reading.updates.items():
            self._update(name, part)
        return self._writer.finish(self._output())

    def _put_inputs(self) -> None:
        given = dict(zip((value.unique() for value in self._reading.script.given), self._writer.given, strict=True))
        names = {leaf.unique(): name for name, leaf in self._reading.script.leaves.items()}
        for (node, task), copy in self._fork.instances.items():
            if node.op == "placeholder" and copy not in self._values:
                value = node.meta["value"]
                if value.unique() in given:
                    found = given[value.unique()]
                elif value.unique() in names:
                    found = self._writer.read(self._places.of(names[value.unique()], task), value.type())
                else:
                    found = self._writer.constant(value)
                self._values[copy] = [found]

    def _written(self, node: Node) -> list[Any]:
        """The values of an operation, which is written."""
        if node.target is operator.getitem:
            source, at = node.args
            assert isinstance(source, Node) and isinstance(at, int)
            return [self._values[source][at]]
        if node.target in _COPIES:
            return [self._writer.apply(_COPIES[node.target], *map(self._value, node.all_input_nodes))]
        if "container" in node.meta:
            container, slots = node.meta["container"]
            held = [self._value_or_constant(each, slot.value) for each, slot in zip(node.args, slots, strict=True)]
            return [self._gathered(container.type(), [slot.key for slot in slots], held)]
        script = node.meta["script"]
        used = node.meta["used"]
        values = {
            value.unique(): self._value_or_constant(each, value) for value, each in zip(used, node.args, strict=True)
        }
        return self._writer.copy(script, lambda value: values[value.unique()])

    def _value(self, node: Node) -> Any:
        (value,) = self._values[node]
        return value

    def _value_or_constant(self, found: object, value: Any) -> Any:
        return self._value(found) if isinstance(found, Node) else self._writer.constant(value)

    def _part(self, part: Part, task: str) -> Any:
        """What stands for a part in a task's network."""
        return self._value_or_constant(part.node and self._fork.instances[part.node, task], part.value)

    def _update(self, name: str, part: Part) -> None:
        """Set an attribute; one that several streams update in turn becomes what the last of them has left."""
        found: dict[str, Any] = {}
        for task in self._tasks:
            if part.node is None or (part.node, task) in self._fork.instances:
                found[self._places.of(name, task)] = self._part(part, task)
        for place, value in found.items():
            self._writer.set(place, value)

    def _output(self) -> Any:
        reading = self._reading
        kind = reading.script.output.type()
        if not reading.is_open:
            return joined(self._writer, kind, {task: self._part(reading.parts[0], task) for task in self._tasks})
        tasks = _owners(reading, self._tasks)
        values = [self._part(part, task) for part, task in zip(reading.parts, tasks, strict=True)]
        return self._gathered(kind, [part.key for part in reading.parts], values)

    def _gathered(self, kind: Any, keys: Sequence[str | None], values: Sequence[Any]) -> Any:
        if is_dictionary(kind):
            pairs = zip((self._writer.literal(str(key)) for key in keys), values, strict=True)
            return self._writer.gather("prim::DictConstruct", [each for pair in pairs for each in pair], kind)
        return self._writer.gather("prim::ListConstruct" if is_list(kind) else "prim::TupleConstruct", values, kind)
