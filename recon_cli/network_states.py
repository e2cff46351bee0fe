"""What a run of a network may change besides its outputs, and how to undo it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from recon_cli.attributes import Attributes
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

    Its buffers, the attributes of its modules and of what these hold, and all random number generators are as before;
    not what else its code writes to.
    """
    before = Before(model)
    attributes = Attributes(model)
    try:
        yield
    finally:
        attributes.restore()
        before.restore()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Parts of a network that are compiled by themselves run as they were written: no call inside could be seen."""
    # What has not been imported has compiled nothing, and takes seconds to import.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    _stance.enter()
    try:
        yield
    finally:
        _stance.leave()


class _Stance:
    """The compiler's stance, which is one for all threads: the last to leave a block puts back what the first found."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: AbstractContextManager[object] = nullcontext()

    def enter(self) -> None:
        """Have all code run as it was written."""
        with self._lock:
            if not self._inside:
                self._before = torch.compiler.set_stance("force_eager")
            self._inside += 1

    def leave(self) -> None:
        """Have code compiled again, unless another thread has not left yet."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_stance = _Stance()
