"""Forking a graph: every task has its own split layers, and only what these make different is there several times."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Graph, Node

from recon_cli.branching.programs.liveness import Ownership, live_nodes
from recon_cli.branching.programs.memory import Memory
from recon_cli.errors import ReconError, quoted
from recon_cli.layers.names import layer_of

_Key = tuple[Node, ...]


@dataclass(frozen=True)
class GraphFork:
    """A forked graph, which has no output yet.

    :ivar instances: for a node of the original graph and a task in whose stream it is, what stands for it. The inputs
        of a graph are in the streams of all tasks.
    """

    graph: Graph
    instances: Mapping[tuple[Node, str], Node]


def fork_graph(
    memory: Memory,
    outputs: Mapping[str, Collection[Node]],
    ownership: Ownership,
    wanted: Collection[str] | None = None,
) -> GraphFork:
    """Fork a graph at its split layers.

    Every node becomes one node for each group of tasks that have the same inputs to it. So what comes before the first
    split stays single, as does every stream that no split layer is part of, and streams part only as far as the
    partitions of the layers before make them differ. An operation that writes into memory in which several groups'
    streams lie gets memory of its own for each group. A BatchNorm whose statistics are not split is run by every group
    in turn.

    :param memory: of the graph.
    :param outputs: for each task, in order, the nodes of its outputs.
    :param wanted: the tasks whose streams are forked; all of them if it is not given.
    :raises ReconError: if the graph writes what differs between the tasks into its inputs, into buffers that stay
        shared, or into memory of which it is not clear what lies in it.
    """
    live = live_nodes(memory, outputs, ownership)
    fork = _Forking(memory, {task: live[task] for task in wanted or outputs}, ownership)
    for node in memory.graph.nodes:
        if node.op == "placeholder":
            fork.add_input(node)
        elif node.op != "output":
            fork.add_operation(node)
    for value, buffer in ownership.updates:
        fork.chain(value, buffer)
    return GraphFork(fork.graph, fork.instances)


class _Forking:
    def __init__(self, memory: Memory, live: Mapping[str, set[Node]], ownership: Ownership) -> None:
        self.graph = Graph()
        self.instances: dict[tuple[Node, str], Node] = {}
        self._memory = memory
        self._live = live
        self._ownership = ownership
        self._positions = {node: at for at, node in enumerate(memory.graph.nodes)}
        self._names = {node.name for node in memory.graph.nodes}

    def add_input(self, node: Node) -> None:
        """Add an input: one for each branch, if it belongs to a split layer."""
        branches = self._ownership.branches.get(node)
        made: dict[str | None, Node] = {}
        for task in self._live:
            branch = None if branches is None else branches[task]
            if branch not in made:
                name = node.name if branch is None else self._new_name(f"{node.name}_{branch}")
                made[branch] = self.graph.create_node("placeholder", name, node.args, name=name)
                made[branch].meta = dict(node.meta)
            self.instances[node, task] = made[branch]

    def add_operation(self, node: Node) -> None:
        """Add what stands for an operation in the streams of all tasks."""
        tasks = [task for task in self._live if node in self._live[task]]
        in_turn = self._memory.moved(node)
        for value in self._memory.written(node):
            if value not in in_turn:
                self._separate(node, value, tasks)
        made: dict[_Key, Node] = {}
        for task in tasks:
            key = self._key(node, task)
            if key not in made:
                made[key] = self._copied(node, task)
            self.instances[node, task] = made[key]

    def chain(self, value: Node, buffer: Node) -> None:
        """Let the streams through a buffer that is not split update it in turn.

        :param value: what becomes the buffer's new value; every stream begins with what the one before has left.
        """
        before: dict[Node, Node] = {}
        for task in self._live:
            if (value, task) not in self.instances:
                continue
            own, new = self.instances[buffer, task], self.instances[value, task]
            last = before.get(own, new)
            if last is not new:
                self._take_up(new, own, last, buffer)
            before[own] = new

    def _take_up(self, new: Node, own: Node, last: Node, buffer: Node) -> None:
        maker, maker_before = _maker(new), _maker(last)
        others = [source for source in maker.all_input_nodes if source is not own]
        if own not in maker.all_input_nodes or any(_depends(source, own, maker_before) for source in others):
            raise _shared_update(self._ownership.names[buffer])
        if maker_before is not last:
            maker_before.append(last)
        maker.replace_input_with(own, last)

    def _new_name(self, wanted: str) -> str:
        """A name like this one that no node of the original graph has."""
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name

    def _key(self, node: Node, task: str) -> _Key:
        return tuple(self.instances[value, task] for value in node.all_input_nodes)

    def _copied(self, node: Node, task: str) -> Node:
        return self.graph.node_copy(node, lambda value: self.instances[value, task])

    def _separate(self, node: Node, value: Node, tasks: Sequence[str]) -> None:
        """Give groups of tasks whose streams write differently into the same memory memory of their own."""
        for storage in self._memory.touched(value):
            groups: dict[Node, dict[_Key, list[str]]] = {}
            for task in tasks:
                by_key = groups.setdefault(self.instances[storage, task], {})
                by_key.setdefault(self._key(node, task), []).append(task)
            for by_key in groups.values():
                # One group may go on with what was shared.
                for own_tasks in list(by_key.values())[1:]:
                    self._check_separable(node, value, storage)
                    self._renew(node, storage, own_tasks)

    def _check_separable(self, node: Node, value: Node, storage: Node) -> None:
        if storage.op == "placeholder":
            if storage not in self._ownership.names:
                raise ReconError(
                    f"the program writes what differs between the tasks into its input {quoted(storage.name)}",
                    "let it work on a copy, `x = x.clone()`, and export it again",
                )
            raise _shared_update(self._ownership.names[storage])
        if len(self._memory.touched(value)) > 1:
            raise _unclear(node)

    def _renew(self, node: Node, storage: Node, tasks: Sequence[str]) -> None:
        """Put a copy of memory in the place of all that lies in it and is read from now on."""
        renewed: dict[Node, Node] = {}
        for task in tasks:
            for alias in self._memory.aliases(storage):
                if self._positions[alias] < self._positions[node] and (
                    alias is storage or self._is_read_since(node, alias, task)
                ):
                    self.instances[alias, task] = self._renewed(node, alias, storage, task, renewed)

    def _is_read_since(self, node: Node, alias: Node, task: str) -> bool:
        return any(
            self._positions[user] >= self._positions[node] and (user.op == "output" or user in self._live[task])
            for user in alias.users
        )

    def _renewed(self, node: Node, alias: Node, storage: Node, task: str, renewed: dict[Node, Node]) -> Node:
        """What stands for a value in the copy of its memory."""
        before = self.instances[alias, task]
        if before in renewed or before in renewed.values():
            return renewed.get(before, before)
        if alias is storage:
            copier = self._memory.copier(storage)
            if copier is None:
                raise _unclear(node)
            made = self.graph.call_function(copier, (before,))
            made.meta = dict(before.meta)
        elif written := self._memory.written(alias):
            if len(written) > 1 or not self._memory.returns_written(alias):
                raise _unclear(node)
            # What is written in place is returned.
            made = self._renewed(node, written[0], storage, task, renewed)
        else:
            if not self._memory.is_view(alias) or self._is_written_between(alias, node, storage):
                raise _unclear(node)
            sources = {
                value: self._renewed(node, value, storage, task, renewed)
                if storage in self._memory.storages(value)
                else self.instances[value, task]
                for value in alias.all_input_nodes
            }
            made = self.graph.node_copy(alias, sources.__getitem__)
        renewed[before] = made
        return made

    def _is_written_between(self, alias: Node, node: Node, storage: Node) -> bool:
        """Whether a value that may be a copy of its memory, not a view, would be another one if it was made anew."""
        if not self._memory.may_copy(alias):
            return False
        return any(
            self._positions[alias] < self._positions[other] < self._positions[node]
            and any(storage in self._memory.touched(value) for value in self._memory.written(other))
            for other in self._positions
        )


def _maker(value: Node) -> Node:
    """The operation that computes a value, which may return several."""
    return value.all_input_nodes[0] if value.target is operator.getitem else value


def _depends(node: Node, source: Node, without: Node) -> bool:
    """Whether a node is computed from another, on a way that does not lead through a third."""
    seen = {without}
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each is source:
            return True
        if each not in seen:
            seen.add(each)
            waiting += each.all_input_nodes
    return False


def _shared_update(buffer: str) -> ReconError:
    return ReconError(
        f"the program updates the buffer {quoted(buffer)}, which stays shared, with values that differ between tasks",
        f"split its layer {quoted(layer_of(buffer))} as well",
    )


def _unclear(node: Node) -> ReconError:
    return ReconError(
        f"the program writes in place ({quoted(node.name)}) into memory that several tasks share behind the split, and "
        "of which it cannot be told what lies in it",
        "export the program with `run_decompositions({})`, or without that operation in place",
    )
