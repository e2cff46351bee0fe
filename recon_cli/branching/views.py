"""One view of a network for each task: the network as its author wrote it, on that task's copies of the split layers.

Modules that hold nothing split are the same objects in every view, so that their parameters, buffers, hooks and modes
are one. Only the modules around a split layer are cloned, and the tensors that those own directly are the same tensors.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from types import MethodType

import torch
from torch import nn

from recon_cli.artifacts.manifest import SplitLayer
from recon_cli.branching.plan import BranchingPlan
from recon_cli.errors import ReconError, quoted
from recon_cli.layers.names import LayerTable

Part = nn.Module | torch.Tensor
"""What is copied of a split layer: its module, or one of its bare tensors."""


def parts_of(model: nn.Module, layer: SplitLayer) -> list[Part]:
    """What a split layer consists of: its modules, or bare tensors where other layers lie inside its module."""
    state = model.state_dict(keep_vars=True)
    table = LayerTable.of(state)
    parts: dict[int, Part] = {}
    for name in (layer.name, *layer.aliases):
        found: list[Part] = (
            [model.get_submodule(name)] if table.is_leaf(name) else [state[key] for key in table.keys[name]]
        )
        parts.update({id(part): part for part in found})
    return list(parts.values())


def copy_layers(model: nn.Module, plan: BranchingPlan) -> dict[str, dict[int, Part]]:
    """Copy the split layers, once for each branch; the first branch of a layer is the layer itself.

    :returns: for every task, the id of each part of a split layer -> what the task uses in its place.
    :raises ReconError: if a layer cannot be copied.
    """
    substitutes: dict[str, dict[int, Part]] = {task: {} for task in plan.tasks}
    # One memo for all that the same tasks use, so that what is tied, also across layers, stays tied in the copy.
    memos: dict[tuple[str, ...], dict[int, object]] = {}
    for layer in plan.layers:
        originals = parts_of(model, layer)
        for number, branch in enumerate(layer.branches):
            memo = memos.setdefault(branch.tasks, {})
            copies = [_copy(layer.name, part, memo) for part in originals] if number else originals
            for task in branch.tasks:
                substitutes[task].update({id(o): c for o, c in zip(originals, copies, strict=True)})
    return substitutes


def _copy(name: str, part: Part, memo: dict[int, object]) -> Part:
    try:
        copied: Part = copy.deepcopy(part, memo)
    except (RuntimeError, TypeError) as error:
        raise ReconError(f"the layer {quoted(name)} cannot be copied: {error}") from error
    return copied


def modules_around(model: nn.Module, parts: Iterable[Part]) -> frozenset[int]:
    """The ids of the modules that hold a part of a split layer, or hold a module that does; the root is among them.

    A module holds what is registered in it, and also what its other attributes refer to.
    """
    inside = {id(module) for part in parts if isinstance(part, nn.Module) for module in part.modules()}
    wanted = {id(part) for part in parts}
    around = {id(model)}
    candidates = [module for module in model.modules() if id(module) not in inside]
    grown = True
    while grown:
        grown = False
        # Children first, so that one round finds all that is registered.
        for module in reversed(candidates):
            if id(module) not in around and any(id(item) in wanted for item in _held(vars(module))):
                around.add(id(module))
                grown = True
            if id(module) in around:
                wanted.add(id(module))
    return frozenset(around)


def _held(value: object, seen: set[int] | None = None) -> Iterator[object]:
    """The modules and tensors that an attribute refers to, through containers, bound methods and partial calls."""
    seen = set() if seen is None else seen
    if isinstance(value, (nn.Module, torch.Tensor)):
        yield value
        return
    if id(value) in seen:
        return
    items: Iterable[object] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = value
    elif isinstance(value, MethodType):
        items = (value.__self__,)
    elif isinstance(value, functools.partial):
        items = (value.func, value.args, value.keywords)
    seen.add(id(value))
    for item in items:
        yield from _held(item, seen)


def make_view(model: nn.Module, around: frozenset[int], substitutes: Mapping[int, Part]) -> nn.Module:
    """Clone the modules around the split layers, with one task's copies in place; all else is shared.

    :raises ReconError: if a module cannot be cloned.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        if id(module) not in around:
            memo[id(module)] = module
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            memo[id(tensor)] = tensor
    memo.update(substitutes)
    try:
        view: nn.Module = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise ReconError(f"the model cannot be cloned around its split layers: {error}") from error
    return view
