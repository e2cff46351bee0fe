"""The circumstances that a branched network is called in: whether one view's code may stand for that of all now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn
from torch.nn.modules import module as hooks_of_all

from recon_cli.branching.runtime.functions import has_hooks_on_saved_tensors, is_transformed

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF_ALL = tuple(getattr(hooks_of_all, f"_global{name}") for name in _HOOKS)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), tuple)


class OneCode:
    """Whether the code of the first task's view stands for that of all views.

    :param views: the network of each task.
    """

    def __init__(self, views: Mapping[str, nn.Module]) -> None:
        first, *others = views.values()
        self._first = tuple(first.modules())
        own = {id(module) for module in self._first}
        # A clone of a module is out of reach; the copies of a split layer are not, and their user may change one.
        self._pairs = [
            (module, other)
            for view in others
            for module, other in zip(self._first, view.modules(), strict=True)
            if id(other) not in own
        ]

    def doubt(self, tree: Iterable[nn.Module]) -> str | None:
        """Why it does not at present; None if it does.

        :param tree: the modules that the network's user sees.
        """
        if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
            return "a mode looks at the calls of the network"
        if is_transformed() or has_hooks_on_saved_tensors():
            return "it is run inside a transform, or under hooks on saved tensors"
        if any(_HOOKS_OF_ALL) or any(map(_has_hooks, chain(self._first, tree))):
            return "modules have hooks, which are called in every task's pass"
        if any(not _alike(one, other) for one, other in self._pairs):
            return "copies of a split layer are set differently"
        return None


@contextmanager
def autocast_kept() -> Iterator[None]:
    """Leave autocast as it was if what is run inside fails: a graph enters it by operations, which nothing undoes."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = ("cpu",) if accelerator is None else ("cpu", accelerator.type)
    before = [(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices]
    depth = _autocast_depth()
    try:
        yield
    except BaseException:
        for device, enabled, dtype in before:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        for _ in range(_autocast_depth() - depth):
            torch.autocast_decrement_nesting()
        if not depth:
            torch.clear_autocast_cache()
        raise


def _autocast_depth() -> int:
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _has_hooks(module: nn.Module) -> bool:
    table = vars(module)
    return any(table.get(name) for name in _HOOKS)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    table = vars(other)
    return all(table.get(name) == value for name, value in vars(one).items() if type(value) in _PLAIN)
