"""Which operations of a graph belong to which task: those that its outputs need, and those that keep its state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch.fx import Graph, Node

from recon_cli.branching.programs.memory import Memory


@dataclass(frozen=True)
class Ownership:
    """Whose state a graph's inputs are.

    :ivar names: for every input that is a parameter, a buffer or a constant, its name in the program.
    :ivar branches: for every input of a split layer, the branch that each task uses.
    :ivar updates: pairs of a value that becomes a buffer's new one when the graph has run, and the buffer.
    """

    names: Mapping[Node, str]
    branches: Mapping[Node, Mapping[str, str]]
    updates: Sequence[tuple[Node, Node]] = field(default=())

    def module(self, node: Node) -> str | None:
        """The module that holds an input; None for those that the caller gives."""
        return self.names[node].rpartition(".")[0] if node in self.names else None


def live_nodes(memory: Memory, outputs: Mapping[str, Collection[Node]], ownership: Ownership) -> dict[str, set[Node]]:
    """The nodes that each task's stream consists of.

    These are the nodes from which the task's outputs are computed, with those that write into what they read; and the
    effects: nodes that write into the program's state or inputs, or check something, though nothing reads them. An
    effect belongs to the tasks from whose values alone it is computed. One that is computed from state alone, such as
    the count of a BatchNorm, belongs to the tasks of the uses of that state's module that follow before the next count;
    if there are none, to those that use the module anywhere. What then belongs to no task belongs to all.

    :param outputs: for each task, the nodes of its outputs.
    """
    live = {task: _slice(memory, found) for task, found in outputs.items()}
    anywhere = set().union(*live.values())
    used = {task: _modules_used(nodes, ownership) for task, nodes in live.items()}
    effects = [(node, memory.written(node)) for node in memory.graph.nodes if _is_effect(node, memory)]
    effects += [(value, [buffer]) for value, buffer in ownership.updates]
    uses = _Uses(memory.graph, ownership)
    wanted: dict[str, set[Node]] = {task: set() for task in outputs}
    counts: set[Node] = set()
    # Whose the uses are that a count comes before has to be known first.
    for node, written in reversed(effects):
        sources = _sources(node, anywhere)
        if sources:
            tasks = [task for task in outputs if sources <= live[task]]
        else:
            counts.add(node)
            state = {ownership.module(storage) for value in written for storage in memory.touched(value)}
            following = uses.before_next(node, written, state)
            tasks = [task for task in outputs if following & (live[task] | wanted[task])]
            tasks = tasks or [task for task in outputs if state & used[task]]
        if not tasks and node not in anywhere:
            tasks = list(outputs)
        for task in tasks:
            wanted[task].add(node)
    return {task: _slice(memory, found, wanted[task], counts) for task, found in outputs.items()}


class _Uses:
    """Where a graph uses the modules that hold its state; to count is no use."""

    def __init__(self, graph: Graph, ownership: Ownership) -> None:
        self._positions = {node: at for at, node in enumerate(graph.nodes)}
        self._next: dict[Node, int] = {}
        self._uses: dict[str | None, list[Node]] = {}
        for node in graph.nodes:
            modules = [ownership.module(source) for source in node.all_input_nodes]
            if any(source not in ownership.names for source in node.all_input_nodes):
                for module in {*modules} - {None}:
                    self._uses.setdefault(module, []).append(node)

    def before_next(self, count: Node, written: Sequence[Node], modules: Iterable[str | None]) -> set[Node]:
        """The uses of modules between a count and the next one of the same; counts are asked for from last to first."""
        first = self._positions[count]
        last = min((self._next.get(value, len(self._positions)) for value in written), default=first)
        self._next.update(dict.fromkeys(written, first))
        return {use for module in modules for use in self._uses.get(module, ()) if first < self._positions[use] < last}


def _slice(
    memory: Memory, outputs: Iterable[Node], effects: Collection[Node] = (), counts: Collection[Node] = ()
) -> set[Node]:
    """The nodes that some need, with those that write into what is read after them.

    :param counts: the effects that are computed from state alone; they go on from whatever was counted before.
    """
    outputs = list(outputs)
    live: set[Node] = set()
    wanted = {*outputs, *effects}
    read = {storage for node in outputs for storage in memory.storages(node)}
    for node in reversed(memory.graph.nodes):
        if node in wanted or any(memory.touched(value) & read for value in memory.written(node)):
            live.add(node)
            wanted.update(node.all_input_nodes)
            for value in memory.read(node):
                if node not in counts or value not in memory.written(node):
                    read |= memory.storages(value)
    return live


def _is_effect(node: Node, memory: Memory) -> bool:
    """Whether a node does something that does not show in the values of a graph."""
    if memory.acts(node):
        return True
    written = {storage for value in memory.written(node) for storage in memory.touched(value)}
    return any(storage.op == "placeholder" for storage in written)


def _sources(node: Node, live: set[Node]) -> set[Node]:
    """The nearest live operations that a node is computed from; itself if it is one."""
    found: set[Node] = set()
    seen = {node}
    waiting = [node]
    while waiting:
        nearest = waiting.pop()
        if nearest in live and nearest.op != "placeholder":
            found.add(nearest)
            continue
        for source in nearest.all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return found


def _modules_used(live: set[Node], ownership: Ownership) -> set[str | None]:
    state = {value for node in live for value in node.all_input_nodes if value in ownership.names}
    return {ownership.module(value) for value in state}
