"""What hangs hooks on a network while a forward pass runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle


class Watching(ABC):
    """Notes what its backward passes need of a forward pass."""

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []

    @abstractmethod
    def watch(self) -> None:
        """Note it from now on."""

    def unwatch(self) -> None:
        """Note nothing any more; what was noted is kept for the backward passes."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note it in the forward pass that runs inside the block."""
        self.watch()
        try:
            yield
        finally:
            self.unwatch()
