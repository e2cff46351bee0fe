"""Lists and dictionaries that a graph fills one by one, and what they hold at every moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from recon_cli.branching.programs.torchscript.types import holding, is_dictionary

_MAKERS = ("prim::DictConstruct", "prim::ListConstruct")


@dataclass(frozen=True)
class Slot:
    """A part of a list, a dictionary or a tuple.

    :ivar key: under which it stands in a dictionary; else None.
    :ivar value: TorchScript's value.
    """

    key: str | None
    value: Any


class FilledContainers:
    """The containers of a graph that are filled in the open, with nothing else holding them meanwhile.

    These can be read as if they were made at once, whenever they are used.

    :ivar fillers: the operations that do nothing but fill them.
    """

    def __init__(self, graph: Any) -> None:
        self._order = {node: at for at, node in enumerate(graph.nodes())}
        self._filled: dict[int, list[Any]] = {}
        for node in self._order:
            if node.kind() in _MAKERS:
                self._add(node.output())
        self.fillers = frozenset(node for nodes in self._filled.values() for node in nodes)

    def __contains__(self, value: Any) -> bool:
        return value.unique() in self._filled

    def slots(self, container: Any, user: Any) -> tuple[Slot, ...]:
        """What a container holds when an operation uses it; at the end of the graph, if that is None."""
        made = list(container.node().inputs())
        end = self._order.get(user, len(self._order))
        fillers = [node for node in self._filled[container.unique()] if self._order[node] < end]
        if not is_dictionary(container.type()):
            return tuple(Slot(None, value) for value in (*made, *(node.inputsAt(1) for node in fillers)))
        pairs = [*zip(made[::2], made[1::2], strict=True), *((node.inputsAt(1), node.inputsAt(2)) for node in fillers)]
        return tuple(Slot(key, value) for key, value in {key.toIValue(): value for key, value in pairs}.items())

    def put_together(self, output: Any) -> tuple[Slot, ...] | None:
        """What a graph puts together to return it; None if it has that from elsewhere."""
        if output in self:
            return self.slots(output, None)
        if output.node().kind() == "prim::TupleConstruct":
            return tuple(Slot(None, value) for value in output.node().inputs())
        return None

    def _add(self, container: Any) -> None:
        users = [use.user for use in container.uses()]
        fillers = sorted(
            {user for user in users if _fills(user, container)}, key=lambda node: self._order.get(node, -1)
        )
        last = self._order.get(fillers[-1], -1) if fillers else -1
        if (
            all(node in self._order for node in fillers)
            and all(_is_constant_text(key) for key in _keys(container, fillers))
            and all(self._is_harmless(user, container, last) for user in users if user not in fillers)
        ):
            self._filled[container.unique()] = fillers

    def _is_harmless(self, user: Any, container: Any, last: int) -> bool:
        """Whether an operation neither changes a container nor, before it is complete, keeps hold of it."""
        if user.kind() == "prim::Return":
            return user.owningBlock().owningNode() is None
        if any(value.unique() == container.unique() for value in written(user)):
            return False
        if self._order.get(user, -1) > last:
            return True
        gives = user.kind() != "aten::__getitem__" and any(holding(out.type()).containers for out in user.outputs())
        return user in self._order and user.kind().startswith("aten::") and not gives


def written(node: Any) -> Iterator[Any]:
    """The inputs that an operation's schema says it writes to; what its blocks do is not looked at."""
    if "!" in (text := node.schema()):
        for value, argument in zip(node.inputs(), torch._C.parse_schema(text).arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                yield value


def _keys(container: Any, fillers: Sequence[Any]) -> list[Any]:
    if not is_dictionary(container.type()):
        return []
    return [*list(container.node().inputs())[::2], *(node.inputsAt(1) for node in fillers)]


def _is_constant_text(value: Any) -> bool:
    return value.node().kind() == "prim::Constant" and isinstance(value.toIValue(), str)


def _fills(node: Any, container: Any) -> bool:
    """Whether an operation puts something else into a container, and nobody reads what it returns."""
    if node.kind() not in ("aten::append", "aten::_set_item") or any(value.uses() for value in node.outputs()):
        return False
    if is_dictionary(container.type()) != (node.kind() == "aten::_set_item"):
        return False
    into, *others = node.inputs()
    return bool(into.unique() == container.unique()) and all(each.unique() != container.unique() for each in others)
