"""Cutting the autograd graph, so that the gradients of only one part of the network are alive for all tasks at a time.

A slice is a run of nodes of the graph's order. The backward passes of all tasks go through one slice before the next;
what is handed on are the gradients at its exits, one for each task and edge into later slices. A cut is closed where
everything below hangs on one edge, as between the blocks of a residual network. Elsewhere it is open: an exit may lead
to another exit, so its node must not hand on now what the next slice will hand on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

from recon_cli.gradients.graph import Graph, Node, edge_bytes

_NEVER = 1 << 62
_MODULE_HOOKS = "BackwardHookFunctionBackward"


@dataclass(frozen=True)
class Slice:
    """A part of the graph.

    :ivar nodes: its nodes, in the graph's order.
    :ivar exits: the edges into later slices.
    :ivar is_closed: whether no exit leads to another one, or to a parameter that the slice uses.
    :ivar awaited: the tasks, as bits, whose way through the slice a later task crosses.
    """

    nodes: list[Node]
    exits: list[GradientEdge]
    is_closed: bool
    awaited: int


@dataclass(frozen=True)
class _Cut:
    """A place where the graph may be cut: after the node at `position`.

    :ivar is_closed: as that of the slice.
    :ivar handed_on: bytes of the gradients at the exits, of all tasks.
    """

    position: int
    is_closed: bool
    handed_on: int


def cut(graph: Graph, held: Mapping[Node, int], *, aim: int, limit: int) -> list[Slice]:
    """Cut a graph into slices.

    :param held: how many bytes are held for all tasks, by the node with which they come up; they are free again after
        the slice.
    :param aim: bytes; a slice that holds as much ends at the next closed cut, which costs next to nothing.
    :param limit: bytes; a slice without a closed cut that would hold more ends at its best open cut. Its part of the
        graph cannot be freed before the losses are.
    """
    slices, start = [], 0
    for chosen in _choose(graph, held, aim, limit):
        slices.append(_slice(graph, start, chosen))
        start = chosen.position + 1
    slices.append(_slice(graph, start, _Cut(len(graph.order) - 1, is_closed=True, handed_on=0)))
    return slices


def _slice(graph: Graph, start: int, end: _Cut) -> Slice:
    nodes = list(graph.order[start : end.position + 1])
    inside = set(nodes)
    awaited = 0
    exits: dict[tuple[Node, int], None] = {}
    for node in nodes:
        tasks = graph.tasks[node]
        awaited |= tasks ^ (1 << tasks.bit_length() >> 1)
        exits.update(dict.fromkeys(edge for edge in graph.flows[node] if edge[0] not in inside))
    return Slice(nodes, [GradientEdge(*edge) for edge in exits], end.is_closed, awaited)


def _choose(graph: Graph, held: Mapping[Node, int], aim: int, limit: int) -> list[_Cut]:
    cuts = _possible_cuts(graph)
    chosen: list[_Cut] = []
    joint = _where_tasks_meet(graph, cuts)
    position, gathered, best = 0, 0, None
    while position < len(cuts):
        here = cuts[position]
        if gathered + held.get(graph.order[position], 0) > limit and best is not None:
            chosen.append(best)
            position, gathered, best = best.position + 1, 0, None
            continue
        gathered += held.get(graph.order[position], 0)
        pays = here.handed_on <= gathered
        if here is joint or (here.is_closed and pays and gathered >= aim):
            chosen.append(here)
            gathered, best = 0, None
        elif pays and gathered and (best is None or here.handed_on <= best.handed_on):
            best = here
        position += 1
    return chosen


def _where_tasks_meet(graph: Graph, cuts: list[_Cut]) -> _Cut | None:
    """The closed cut above which every node is one task's own, so that its pass can free it; None if there is none."""
    found = None
    for node, here in zip(graph.order, cuts, strict=False):
        tasks = graph.tasks[node]
        if tasks & (tasks - 1):
            break
        found = here
    return found if found is not None and found.is_closed else None


def _possible_cuts(graph: Graph) -> list[_Cut]:
    """One cut after every node but the last."""
    position_of = {node: position for position, node in enumerate(graph.order)}
    # A parameter that is used above and below a cut keeps it from being closed.
    last_use: dict[int, int] = {}
    # A hook of the user's has to see a parameter's gradient as a whole.
    last_use_of_hooked: dict[int, int] = {}
    for key, users in graph.users.items():
        positions = [position_of[node] for node in users]
        first = min(positions)
        last_use[first] = max(last_use.get(first, 0), *positions)
        if graph.leaves[key]._backward_hooks:
            last_use_of_hooked[first] = max(last_use_of_hooked.get(first, 0), *positions)
    # Between the exits of an open cut nothing flows, which hooks of modules and operations in Python need not expect.
    last_in_python = max((position_of[node] for node in graph.order if isinstance(node, BackwardCFunction)), default=0)
    cuts = []
    frontier: dict[Node, dict[int, int]] = {}
    handed_on, edges, used_until, impossible_until = 0, 0, 0, 0
    for position, node in enumerate(graph.order[:-1]):
        for size in frontier.pop(node, {}).values():
            handed_on -= size
            edges -= 1
        for following, number in graph.flows[node]:
            known = frontier.setdefault(following, {})
            if number not in known:
                known[number] = edge_bytes(following, number) * graph.tasks[following].bit_count()
                handed_on += known[number]
                edges += 1
        used_until = max(used_until, last_use.get(position, 0))
        impossible_until = max(impossible_until, last_use_of_hooked.get(position, 0))
        # The hooks of whole modules act on this node before it runs, which would be too late for what is handed on.
        hooked = any(node.name() == _MODULE_HOOKS for node in frontier)
        is_closed = edges == 1 and used_until <= position and not hooked
        is_possible = impossible_until <= position and (is_closed or last_in_python <= position)
        cuts.append(_Cut(position, is_closed, handed_on if is_possible else _NEVER))
    return cuts
