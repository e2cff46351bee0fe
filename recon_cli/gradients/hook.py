"""A hook on a module that no copy of the module has, and that keeps nobody alive."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from weakref import ref

import torch


class Hook:
    """What is hung on to a network's modules; copies of the network, and files with it, get one that does nothing.

    :param owner: whoever notes the calls; once it is gone, the hook does nothing either.
    :param note: is called with the owner, with what follows, and with what the hook is called with: the module, its
        inputs, and its output if it has run.
    :param first: what `note` is called with before that.
    """

    # Without attributes of its own it leads to nothing, so that whatever is noted is no change of the network.
    __slots__ = ("_first", "_note", "_owner")

    def __init__(self, owner: object, note: Callable[..., None], *first: Any) -> None:
        # PyTorch's compiler follows these, but no `WeakMethod`.
        self._owner = ref(owner)
        self._note = note
        self._first = first

    def __call__(self, *call: Any) -> None:
        """Pass on what the hook is called with."""
        owner = self._owner()
        if owner is None:
            return
        if torch.compiler.is_compiling():
            self._note(owner, *self._first, *call)
            return
        # What is looked at is no call of the network, of which a mode might know something else to make.
        with torch._C.DisableTorchFunction():
            self._note(owner, *self._first, *call)

    def __reduce__(self) -> tuple[Any, ...]:
        # A function of the standard library that takes any arguments, so that the file needs no Recon.
        return getattr, (nullcontext(), "__exit__")
