"""The memory of TorchScript's graphs, in which tensors lie in lists, and blocks do what no schema tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from recon_cli.branching.programs.memory import GraphMemory
from recon_cli.branching.programs.torchscript.types import Holding

Copier = Callable[[Node], None]


@dataclass(frozen=True)
class Traits:
    """What is known of a node besides the schemas of ATen's operations.

    :ivar holding: what its value may hold.
    :ivar copier: what copies its value; None if nothing does.
    :ivar aliased: the inputs whose memory its value may lie in.
    :ivar written: the inputs that it may write to.
    :ivar moved: running statistics that it moves, one step at a time.
    :ivar stored: for an input that it may write to, the inputs that may lie in there afterwards.
    :ivar acts: whether it does something else, such as a check.
    :ivar arranges: whether it does nothing but put values together or take them apart.
    :ivar renews: whether its value has places of its own for what lies in the list or dictionary that it is made from.
    """

    holding: Holding = field(default=Holding())
    copier: Copier | None = None
    aliased: tuple[Node, ...] = ()
    written: tuple[Node, ...] = ()
    moved: tuple[Node, ...] = ()
    stored: Mapping[Node, tuple[Node, ...]] = field(default_factory=dict)
    acts: bool = False
    arranges: bool = False
    renews: bool = False


def traits(node: Node) -> Traits:
    """What is known of a node."""
    found: Traits = node.meta["traits"]
    return found


def operation(*values: object) -> None:
    """Stands for every operation that is none of ATen's: the graphs are read and written, and not run."""


def copy_tensor(value: Node) -> None:
    """Stands for a copy of a tensor."""


def copy_list(value: Node) -> None:
    """Stands for another list of the same values."""


def copy_dictionary(value: Node) -> None:
    """Stands for another dictionary of the same values."""


class ScriptMemory(GraphMemory):
    """The memory of a graph that was made from one of TorchScript's.

    A list has allocated its places; what may lie in it is counted to its storages as well.

    :param graph: every node of it has `traits`.
    """

    def touched(self, value: Node) -> frozenset[Node]:
        """The nodes that have allocated what changes: of a list its places, of a tensor its elements."""
        return frozenset(filter(_is_container, self._storages[value])) or self._storages[value]

    def copier(self, storage: Node) -> Copier | None:
        """The operation that copies what a node has allocated."""
        return traits(storage).copier

    def moved(self, node: Node) -> list[Node]:
        """The running statistics that an operation moves."""
        return [*super().moved(node), *traits(node).moved]

    def acts(self, node: Node) -> bool:
        """Whether a node is there for what it does."""
        return super().acts(node) or traits(node).acts

    def may_copy(self, node: Node) -> bool:
        """Whether what may be a view of its input may also be a copy of it."""
        return isinstance(node.target, torch._ops.OpOverload) and super().may_copy(node)

    def is_view(self, node: Node) -> bool:
        """Whether a node does nothing but look at its inputs' memory in another way.

        A list does not if anything changes which values lie in it.
        """
        if not traits(node).arranges:
            return super().is_view(node)
        places = set(filter(_is_container, self._storages[node]))
        return not any(places & self.touched(value) for each in self.graph.nodes for value in self.written(each))

    def _find_written(self, node: Node) -> list[Node]:
        own = traits(node)
        return [*super()._find_written(node), *own.written, *own.moved]

    def _aliased(self, node: Node) -> list[Node]:
        return [*super()._aliased(node), *traits(node).aliased]

    def _find_storages(self) -> None:
        self._storages = {node: frozenset([node]) for node in self.graph.nodes}
        # What may lie in a list can be put into it after it was used for the first time.
        stored: dict[Node, set[Node]] = {}
        before: object = None
        while before != (self._storages, stored):
            before = (dict(self._storages), {place: set(values) for place, values in stored.items()})
            for node in self.graph.nodes:
                self._storages[node] = self._found(node, stored)
                for into, values in traits(node).stored.items():
                    held = {node}.union(*(self._storages[value] for value in values))
                    for place in filter(_is_container, self._storages[into]):
                        stored.setdefault(place, set()).update(held)

    def _found(self, node: Node, stored: Mapping[Node, set[Node]]) -> frozenset[Node]:
        own, renews = traits(node).holding, traits(node).renews
        if not own:
            return frozenset([node])
        shared = {storage for source in self._aliased(node) for storage in self._storages[source]}
        if self._is_one_of_several(node):
            shared = set()
        if not shared or _is_container(node):
            shared.add(node)
        for storage in list(shared):
            shared |= stored.get(storage, set())
        if renews or not own.containers:
            shared = {storage for storage in shared if not _is_container(storage)}
        return frozenset({node, *shared} if renews else shared)


def _is_container(node: Node) -> bool:
    return traits(node).copier in (copy_list, copy_dictionary)
