"""Reading the autograd graph: its order, where parameters are used, and which operation made a layer's output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from recon_cli.errors import ReconError

Node = Any
"""A node of the autograd graph; PyTorch's own type does not name what is read here."""

_LEAF = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
_RESHAPING = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "SqueezeBackward1"})
_TRANSPOSING = frozenset({"TBackward0", "TransposeBackward0"})

_MERGED = ("CompiledFunctionBackward", "DifferentiableGraphBackward", "_DDPSinkBackward")


@dataclass(frozen=True)
class Graph:
    """What lies behind the losses of all tasks.

    :ivar roots: where the loss of each task enters the graph; None for a task that is not there.
    :ivar order: its nodes, each before all nodes that its gradients flow to; parameters are none of them.
    :ivar flows: where the gradients of each node flow to, parameters left out.
    :ivar tasks: for each node, the tasks whose gradients may arrive there, as the bits of an integer.
    :ivar users: for each parameter's id, the nodes that use it, as often as they do.
    :ivar leaves: those parameters, and whatever else the gradients end at.
    """

    roots: Sequence[GradientEdge | None]
    order: Sequence[Node]
    flows: Mapping[Node, Sequence[tuple[Node, int]]]
    tasks: Mapping[Node, int]
    users: Mapping[int, Sequence[Node]]
    leaves: Mapping[int, torch.Tensor]

    @classmethod
    def behind(cls, losses: Sequence[torch.Tensor | None]) -> Graph:
        """Walk the graph once.

        :param losses: scalars that require gradients; None for a task that is not there.
        """
        roots = [None if loss is None else get_gradient_edge(loss) for loss in losses]
        flows: dict[Node, list[tuple[Node, int]]] = {}
        users: dict[int, list[Node]] = {}
        leaves: dict[int, torch.Tensor] = {}
        finished: list[Node] = []
        for root in roots:
            if root is None or root.node in flows:
                continue
            flows[root.node] = _flows_of(root.node, users, leaves)
            if (variable := leaf_of(root.node)) is not None:
                # A loss that is a parameter itself.
                users.setdefault(id(variable), []).append(root.node)
                leaves[id(variable)] = variable
            pending = [(root.node, iter(flows[root.node]))]
            while pending:
                node, rest = pending[-1]
                for following, _ in rest:
                    if following not in flows:
                        flows[following] = _flows_of(following, users, leaves)
                        pending.append((following, iter(flows[following])))
                        break
                else:
                    pending.pop()
                    finished.append(node)
        finished.reverse()
        tasks = dict.fromkeys(finished, 0)
        for task, root in enumerate(roots):
            if root is not None:
                tasks[root.node] |= 1 << task
        for node in finished:
            for following, _ in flows[node]:
                tasks[following] |= tasks[node]
        return cls(roots, finished, flows, tasks, users, leaves)

    def tasks_of(self, parameter: torch.Tensor) -> list[int]:
        """The tasks whose gradients may arrive at a parameter, ascending."""
        bits = 0
        for node in self.users.get(id(parameter), ()):
            bits |= self.tasks[node]
        return list(ones(bits))

    def is_used_alone_by(self, operations: Collection[Node], parameter: torch.Tensor) -> bool:
        """Whether each of these operations uses a parameter once, as it is or transposed, and nothing else uses it."""
        found = 0
        for operation in operations:
            for following, _ in operation.next_functions:
                # What is derived from a gradient, such as a penalty on it, uses the transposed weight once more.
                if is_transposed(following) and self._arrivals[following] == 1:
                    following = following.next_functions[0][0]
                found += following is not None and leaf_of(following) is parameter
        # A call whose output nothing depends on is none of the graph.
        return found == len(operations) == len(self.users.get(id(parameter), ())) and all(
            operation in self.tasks for operation in operations
        )

    @cached_property
    def _arrivals(self) -> Counter[Node]:
        """How many edges of the graph lead to each node."""
        return Counter(following for flows in self.flows.values() for following, _ in flows)

    def is_merged_before(self, parameter: torch.Tensor) -> bool:
        """Whether a gradient comes to a parameter through a node that may give zeros instead of none."""
        return not self.behind_merged.isdisjoint(self.users.get(id(parameter), ()))

    @cached_property
    def behind_merged(self) -> set[Node]:
        """The nodes that stand for several operations (compiled, TorchScript's, DDP's), and all nodes behind them."""
        found: set[Node] = set()
        for node in self.order:
            if node in found or any(kind in node.name() for kind in _MERGED):
                found.add(node)
                found.update(following for following, _ in self.flows[node])
        return found

    def check_repeatable(self) -> None:
        """Refuse a graph that several backward passes cannot go through.

        :raises ReconError: if the network is checkpointed in PyTorch's older, reentrant way.
        """
        if any(node.name() == "CheckpointFunctionBackward" for node in self.order):
            raise ReconError(
                "the network uses reentrant activation checkpointing, which works with plain `backward()` alone",
                "pass `use_reentrant=False` to `torch.utils.checkpoint.checkpoint`",
            )


@contextmanager
def several_passes() -> Iterator[None]:
    """Say what to do where the compiler has made a graph for one backward pass alone.

    :raises ReconError: naming the setting.
    """
    try:
        yield
    except RuntimeError as error:
        if "donated buffers" not in str(error):
            raise
        raise ReconError(
            "the network was compiled for a single backward pass, which overwrites what those of further tasks need",
            "set `torch._functorch.config.donated_buffer = False` before the network is first run",
        ) from error


def ones(bits: int) -> Iterator[int]:
    """The positions of the ones of an integer, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def leaf_of(node: Node) -> torch.Tensor | None:
    """The tensor whose gradients end at a node; None where they flow on."""
    # An operation of the user's own may have an attribute of that name.
    return node.variable if isinstance(node, _LEAF) else None


def is_transposed(node: Node | None) -> bool:
    """Whether a node stands for a matrix that is transposed."""
    return node is not None and node.name() in _TRANSPOSING


def edge_bytes(node: Node, number: int) -> int:
    """The size of a gradient that flows to a node, in bytes."""
    described = node._input_metadata[number]
    # The ragged dimension of a nested tensor has no length of its own.
    size: int = prod(length for length in described.shape if isinstance(length, int)) * described.dtype.itemsize
    return size


def _flows_of(node: Node, users: dict[int, list[Node]], leaves: dict[int, torch.Tensor]) -> list[tuple[Node, int]]:
    flows = []
    for following, number in node.next_functions:
        if following is None:
            continue
        variable = leaf_of(following)
        if variable is None:
            flows.append((following, number))
        else:
            users.setdefault(id(variable), []).append(node)
            leaves[id(variable)] = variable
    return flows


def operation_behind(output: torch.Tensor, weight: torch.Tensor, operations: frozenset[str]) -> Node | None:
    """The node of an operation with a weight, if a tensor is the plain result of one of these, but for its shape.

    Anything between the two, such as a cast of the weight, makes the answer None. The node stays part of the graph when
    the tensor is a view and written to.
    """
    node: Node = output.grad_fn
    while node is not None and node.name() in _RESHAPING:
        node = node.next_functions[0][0]
    if node is None or node.name() not in operations:
        return None
    for next_node, _ in node.next_functions:
        if is_transposed(next_node):
            next_node = next_node.next_functions[0][0]
        if next_node is not None and leaf_of(next_node) is weight:
            return node
    return None
