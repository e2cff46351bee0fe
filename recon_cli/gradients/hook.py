"""A hook on a module that no copy of the module has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch


class Hook:
    """What is hung on to a network's modules; copies of the network, and files with it, get one that does nothing.

    :param note: is called with what the hook is called with: the module, its inputs, and its output if it has run.
    """

    # Without attributes of its own it leads to nothing, so that whatever is noted is no change of the network.
    __slots__ = ("_note",)

    def __init__(self, note: Callable[..., None]) -> None:
        self._note = note

    def __call__(self, *call: Any) -> None:
        """Pass on what the hook is called with."""
        if torch.compiler.is_compiling():
            self._note(*call)
            return
        # What is looked at is no call of the network, of which a mode might know something else to make.
        with torch._C.DisableTorchFunction():
            self._note(*call)

    def __reduce__(self) -> tuple[Any, ...]:
        # A function of the standard library that takes any arguments, so that the file needs no Recon.
        return getattr, (nullcontext(), "__exit__")
