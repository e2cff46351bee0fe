"""What a run of a network may change besides its outputs, and how to undo it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from recon_cli.random_states import random_states, set_random_states


class Place(NamedTuple):
    """Where a module holds a buffer, and what is there."""

    registry: Any
    name: str
    buffer: torch.Tensor | None

    @property
    def present(self) -> torch.Tensor | None:
        """What is there by now."""
        # A TorchScript module has no dictionary here, so `get` is not to be had.
        return self.registry[self.name] if self.name in self.registry else None  # noqa: SIM401

    def fill(self) -> None:
        """Put it there again."""
        if self.name not in self.registry or self.registry[self.name] is not self.buffer:
            self.registry[self.name] = self.buffer


class Before:
    """What a run may change besides its outputs, as it was before the run: buffers, and the random numbers to come."""

    def __init__(self, model: nn.Module) -> None:
        # A network may put another tensor in a buffer's place.
        self._places = [
            Place(module._buffers, name, buffer)
            for module in model.modules()
            for name, buffer in module._buffers.items()
        ]
        self._values = {id(buffer): buffer.detach().clone() for buffer in model.buffers()}
        self._random = random_states()

    def put_back(self) -> None:
        """Put the buffers back into their places."""
        for place in self._places:
            place.fill()

    def replaced(self) -> list[Place]:
        """The places of buffers in which others are now."""
        return [place._replace(buffer=place.present) for place in self._places if place.present is not place.buffer]

    def changed(self) -> Iterator[tuple[Place, torch.Tensor | None]]:
        """The places in which another buffer is now, or another value, each with the value that it had."""
        for place in self._places:
            before, now = place.buffer, place.present
            value = None if before is None else self._values[id(before)]
            if now is not before or not (now is None or value is None or torch.equal(now, value)):
                yield place._replace(buffer=now), value

    def restore(self) -> None:
        """Make it so again."""
        self.put_back()
        for place in self._places:
            buffer = place.buffer
            # An earlier run may need it for its backward pass, and a write would be counted.
            if buffer is not None and not torch.equal(buffer, value := self._values[id(buffer)]):
                buffer.data.copy_(value)
        set_random_states(self._random)


@contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Undo what a run of a network in the block changes.

    Its buffers, the attributes of its modules, the lists, dictionaries and sets among these, and all random number
    generators are as before; not what else its code writes to.
    """
    before = Before(model)
    attributes = [_Attributes(module) for module in model.modules()]
    try:
        yield
    finally:
        for held in attributes:
            held.restore()
        before.restore()


def uncompiled() -> AbstractContextManager[object]:
    """Parts of a network that are compiled by themselves run as they were written: no call inside could be seen."""
    # What has not been imported has compiled nothing, and takes seconds to import.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


class _Attributes:
    """The attributes of a module, its registries and hooks among them."""

    def __init__(self, module: nn.Module) -> None:
        self._own = vars(module)
        self._held = dict(self._own)
        self._contents = [(value, _content(value)) for value in self._held.values() if _content(value) is not None]
        self._generators = [(v, v.get_state()) for v in self._held.values() if isinstance(v, torch.Generator)]

    def restore(self) -> None:
        if not _same(self._own, self._held):
            self._own.clear()
            self._own.update(self._held)
        for value, content in self._contents:
            if not _same(_content(value), content):
                value.clear()
                value.extend(content) if isinstance(value, (list, deque)) else value.update(content)
        for generator, state in self._generators:
            generator.set_state(state)


def _content(value: Any) -> Any:
    """A copy of what a container holds; None for all else."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, deque)):
        return list(value)
    return set(value) if isinstance(value, set) else None


def _same(one: Any, other: Any) -> bool:
    """Whether two containers hold the same objects in the same places."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(one[key] is other[key] for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(mine is theirs for mine, theirs in zip(one, other, strict=True))
    return bool(one == other)
