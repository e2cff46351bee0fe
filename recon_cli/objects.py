"""What the objects consist of that a network's attributes refer to, and how to make others of their kind."""

from __future__ import annotations

import copy
import functools
import sys
import weakref
from collections import deque
from collections.abc import Callable
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import torch

ATOMS = (str, bytes, int, float, complex, type, type(None), ModuleType, torch.dtype, torch.device)
"""Types of what consists of nothing else, as far as a network is concerned."""

Rebuild = Callable[[list[Any]], object]

_STANDARD_LIBRARY = frozenset(sys.stdlib_module_names) - {"collections"}


def take_apart(value: object) -> tuple[list[object], Rebuild] | None:
    """What an object consists of, and how to make another one of that kind; None if it is not looked into."""
    if isinstance(value, torch.Tensor):
        return None
    if isinstance(value, dict):
        return [*value.keys(), *value.values()], functools.partial(_rebuild_dict, value)
    if isinstance(value, (list, set, deque)):
        return list(value), functools.partial(_rebuild_collection, value)
    if isinstance(value, tuple):
        make = getattr(type(value), "_make", type(value))
        return list(value), make
    if isinstance(value, frozenset):
        return list(value), type(value)
    if isinstance(value, MethodType):
        return [value.__self__], lambda new: MethodType(value.__func__, new[0])
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords], _rebuild_partial
    if isinstance(value, weakref.ref):
        return [value()], lambda new: weakref.ref(new[0])
    if isinstance(value, FunctionType):
        return _take_function_apart(value)
    if not hasattr(value, "__dict__") or _is_of_standard_library(value):
        return None
    return list(vars(value).values()), functools.partial(_rebuild_object, value)


def _take_function_apart(function: FunctionType) -> tuple[list[object], Rebuild] | None:
    cells = [cell for cell in function.__closure__ or () if _is_filled(cell)]
    if not cells or len(cells) < len(function.__closure__ or ()):
        return None

    def rebuild(new: list[object]) -> object:
        closure = tuple(CellType(item) for item in new)
        made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, closure)
        made.__kwdefaults__ = function.__kwdefaults__
        return functools.update_wrapper(made, function, assigned=functools.WRAPPER_ASSIGNMENTS)

    return [cell.cell_contents for cell in cells], rebuild


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_of_standard_library(value: object) -> bool:
    # Loggers, locks and the like lead to half of the process, and to no layer.
    return type(value).__module__.partition(".")[0] in _STANDARD_LIBRARY and not isinstance(value, SimpleNamespace)


def _rebuild_partial(new: list[Any]) -> object:
    function, args, keywords = new
    return functools.partial(function, *args, **keywords)


def _rebuild_dict(value: dict[object, object], new: list[object]) -> object:
    made = copy.copy(value)
    made.clear()
    made.update(zip(new[: len(value)], new[len(value) :], strict=True))
    return made


def _rebuild_collection(value: list[object] | set[object] | deque[object], new: list[object]) -> object:
    made = copy.copy(value)
    made.clear()
    for item in new:
        made.add(item) if isinstance(made, set) else made.append(item)
    return made


def _rebuild_object(value: object, new: list[object]) -> object:
    made = copy.copy(value)
    vars(made).update(zip(vars(value), new, strict=True))
    return made
