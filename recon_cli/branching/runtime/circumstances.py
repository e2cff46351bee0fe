"""The circumstances that a branched network is called in: whether one view's code may stand for that of all now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from types import FunctionType, MethodType

import torch
from torch import nn
from torch.nn.modules import module as hooks_of_all

from recon_cli.branching.runtime.functions import has_hooks_on_saved_tensors, is_transformed
from recon_cli.branching.runtime.substitution import OWN_TABLES
from recon_cli.objects import ATOMS, take_apart

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF_ALL = tuple(getattr(hooks_of_all, f"_global{name}") for name in _HOOKS)
_REGISTRIES = ("_parameters", "_buffers")


class OneCode:
    """Whether the code of the first task's view stands for that of all views.

    :param views: the network of each task.
    """

    def __init__(self, views: Mapping[str, nn.Module]) -> None:
        first, *others = [list(view.modules()) for view in views.values()]
        self._first = tuple(first)
        self._has_one_form = all(len(other) == len(first) for other in others)
        own = {id(module) for module in first}
        # A clone of a module is out of reach; the copies of a split layer are not, and their user may change one.
        self._pairs = [
            (module, other)
            for modules in others
            for module, other in zip(first, modules, strict=False)
            if id(other) not in own
        ]
        every = {id(module): module for modules in (first, *others) for module in modules}
        self._children = [(module._modules, list(module._modules.items())) for module in every.values()]
        places: dict[int, list[tuple[int, str, str]]] = {}
        for at, module in enumerate(first):
            for registry in _REGISTRIES:
                for name, tensor in vars(module)[registry].items():
                    if tensor is not None:
                        places.setdefault(id(tensor), []).append((at, registry, name))
        self._tied = [
            [(vars(modules[at])[registry], name) for at, registry, name in found]
            for modules in others
            if self._has_one_form
            for found in places.values()
            if len(found) > 1
        ]

    def is_of_these_modules(self) -> bool:
        """Whether no module has been replaced since this was made."""
        return all(list(children.items()) == found for children, found in self._children)

    def doubt(self, tree: Iterable[nn.Module]) -> str | None:
        """Why it does not at present; None if it does.

        :param tree: the modules that the network's user sees.
        """
        if torch._dynamo.config.disable or torch._dynamo.eval_frame._stance.stance == "force_eager":
            return "the compiler is switched off"
        if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
            return "a mode looks at the calls of the network"
        if is_transformed() or has_hooks_on_saved_tensors() or torch._C._is_tracing():
            return "it is run inside a transform or a trace, or under hooks on saved tensors"
        if any(_HOOKS_OF_ALL) or any(map(_has_hooks, chain(self._first, tree))):
            return "modules have hooks, which are called in every task's pass"
        if not self._has_one_form or not all(_alike(one, other) for one, other in self._pairs):
            return "copies of a split layer are set differently"
        if any(len({id(registry.get(name)) for registry, name in tied}) > 1 for tied in self._tied):
            return "what is tied for one task is not for another"
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
    mine, its = vars(one), vars(other)
    return (
        type(one) is type(other)
        and mine.keys() == its.keys()
        and all(_hold_alike(mine[registry], its[registry]) for registry in _REGISTRIES)
        and all(value is its[name] or name in OWN_TABLES or _same(value, its[name]) for name, value in mine.items())
    )


def _hold_alike(one: Mapping[str, torch.Tensor | None], other: Mapping[str, torch.Tensor | None]) -> bool:
    return one.keys() == other.keys() and all(
        tensor is other[name] or _same(tensor, other[name]) for name, tensor in one.items()
    )


def _same(one: object, other: object, seen: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Whether code that reads the one would do the same with the other, the values of tensors aside."""
    if one is other or (id(one), id(other)) in seen:
        return True
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and _kind(one) == _kind(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, ATOMS):
        return one == other
    # Modules are compared with each other as they are found in the network.
    if isinstance(one, nn.Module):
        return True
    if isinstance(one, MethodType) and isinstance(other, MethodType) and one.__func__ is not other.__func__:
        return False
    if isinstance(one, FunctionType) and isinstance(other, FunctionType) and one.__code__ is not other.__code__:
        return False
    parts, others = take_apart(one), take_apart(other)
    if parts is None or others is None or len(parts[0]) != len(others[0]):
        return False
    seen |= {(id(one), id(other))}
    return all(_same(mine, its, seen) for mine, its in zip(parts[0], others[0], strict=True))


def _kind(tensor: torch.Tensor) -> tuple[object, ...]:
    strides = tensor.stride() if tensor.layout is torch.strided else None
    return type(tensor), tensor.dtype, tensor.device, tensor.shape, strides, tensor.requires_grad
