"""What the objects of a network hold besides parameters and buffers, which its code may change when it is run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import nn

from recon_cli.objects import ATOMS, take_apart

_Container: TypeAlias = "dict[Any, Any] | list[Any] | set[Any] | deque[Any]"
_NUMBERS = (bool, int, float, complex, str, bytes)


class Attributes:
    """What objects, and all that they lead to, hold when this is made; and the states of their random generators.

    :param roots: modules, and whatever their code is called with.
    """

    def __init__(self, *roots: object) -> None:
        found = list(_objects(roots))
        self._held = [(each, _items(each)) for each in found if not isinstance(each, torch.Generator)]
        self._generators = [(each, each.get_state()) for each in found if isinstance(each, torch.Generator)]

    def have_changed(self) -> bool:
        """Whether anything is held that was not, or another way round."""
        return any(not _alike(_items(container), items) for container, items in self._held)

    def restore(self) -> None:
        """Make it so again."""
        for container, items in self._held:
            if not _alike(_items(container), items):
                container.clear()
                container.extend(items) if isinstance(container, (list, deque)) else container.update(items)
        for generator, state in self._generators:
            generator.set_state(state)


def _objects(roots: tuple[object, ...]) -> Iterator[Any]:
    """All containers and generators that objects lead to."""
    seen: set[int] = set()
    pending: list[object] = list(roots)
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, (*ATOMS, torch.Tensor)):
            continue
        seen.add(id(value))
        if isinstance(value, (dict, list, set, deque, torch.Generator)):
            yield value
        if isinstance(value, nn.Module):
            pending.append(vars(value))
        elif (parts := take_apart(value)) is not None:
            pending.extend(parts[0])
            if not isinstance(value, (dict, list, set, deque)) and hasattr(value, "__dict__"):
                pending.append(vars(value))


def _items(container: _Container) -> list[Any]:
    return list(container.items() if isinstance(container, dict) else container)


def _alike(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(_is_same, now, before))


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return all(map(_is_same, one, other))
    return one is other or (type(one) in _NUMBERS and type(one) is type(other) and one == other)
