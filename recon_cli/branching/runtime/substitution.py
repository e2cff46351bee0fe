"""Putting other tensors into a network without touching it: clones of just the modules that lead to them.

A module leads to what is registered in it, and to what its other attributes refer to: through containers, bound
methods, partial calls, closures, weak references and plain objects. Everything that leads to no replaced tensor stays
the very same object, so that its parameters, buffers, hooks and state are one with the original's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from recon_cli.errors import ReconError, quoted
from recon_cli.objects import ATOMS, take_apart

_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})
OWN_TABLES = frozenset(key for key, value in vars(nn.Module()).items() if isinstance(value, (dict, set)))


def modules_leading_to(model: nn.Module, tensors: Iterable[torch.Tensor]) -> frozenset[int]:
    """The ids of the modules of a network that lead to any of these tensors, the network itself among them."""
    wanted = {id(tensor) for tensor in tensors} | {id(model)}
    leading = {id(model)}
    held = {id(module): (module, list(_held(vars(module)))) for module in model.modules()}
    # Modules that are not registered anywhere can lead on as well.
    pending = [item for _, items in held.values() for item in items]
    while pending:
        item = pending.pop()
        if isinstance(item, nn.Module) and id(item) not in held:
            held[id(item)] = (item, list(_held(vars(item))))
            pending.extend(held[id(item)][1])
    grown = True
    while grown:
        grown = False
        # Children first, so that one round finds all that is registered.
        for module, items in reversed(held.values()):
            if id(module) not in leading and any(id(item) in wanted for item in items):
                leading.add(id(module))
                wanted.add(id(module))
                grown = True
    return frozenset(leading)


class Substitution:
    """One network with some of its tensors and modules replaced.

    :param replaced: id of a tensor or module -> what takes its place.
    :param leading: ids of the modules that lead to what is replaced; they are cloned.
    :param layers: ids of the modules that are layers with replaced tensors; their clones have hooks of their own, while
        other clones go on sharing them with the original.
    """

    def __init__(self, replaced: Mapping[int, object], leading: frozenset[int], layers: frozenset[int]) -> None:
        self._replaced: dict[int, object] = dict(replaced)
        self._leading = leading
        self._layers = layers
        self._under_way: set[int] = set()

    def module(self, original: nn.Module) -> nn.Module:
        """What stands in a module's place: another one, its clone, or the module itself.

        :raises ReconError: if a module cannot be cloned.
        """
        if id(original) in self._replaced:
            found = self._replaced[id(original)]
            assert isinstance(found, nn.Module)
            return found
        if id(original) not in self._leading:
            return original
        if isinstance(original, torch.jit.ScriptModule):
            raise ReconError(
                f"a TorchScript module ({quoted(original.original_name)}) cannot be branched from Python",
                "branch the network that it was made from",
            )
        clone: nn.Module = object.__new__(type(original))
        self._replaced[id(original)] = clone
        for name, value in vars(original).items():
            new = self._of(value)
            if new is value and (name in _REGISTRIES or (name in OWN_TABLES and id(original) in self._layers)):
                new = copy.copy(value)
            vars(clone)[name] = new
        return clone

    def _of(self, value: object) -> object:
        if isinstance(value, ATOMS):
            return value
        if id(value) in self._replaced:
            return self._replaced[id(value)]
        if isinstance(value, nn.Module):
            return self.module(value)
        parts = take_apart(value)
        if parts is None or id(value) in self._under_way:
            return value
        self._under_way.add(id(value))
        items, rebuild = parts
        new = [self._of(item) for item in items]
        self._under_way.discard(id(value))
        if all(one is other for one, other in zip(new, items, strict=True)):
            return value
        try:
            rebuilt = rebuild(new)
        # Somebody else's class can refuse to be copied in any way.
        except Exception as error:
            kind = quoted(type(value).__name__)
            raise ReconError(f"a {kind} that refers to a split layer cannot be copied: {error}") from error
        # The same object in two places stays one object.
        self._replaced[id(value)] = rebuilt
        return rebuilt


def _held(value: object, seen: set[int] | None = None) -> Iterator[object]:
    """The modules and tensors that an attribute refers to, as far as the next module on the way."""
    seen = set() if seen is None else seen
    if isinstance(value, ATOMS) or id(value) in seen:
        return
    if isinstance(value, (nn.Module, torch.Tensor)):
        yield value
        return
    seen.add(id(value))
    parts = take_apart(value)
    for item in parts[0] if parts else ():
        yield from _held(item, seen)
