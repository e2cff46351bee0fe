"""What is split in a network: modules and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from recon_cli.artifacts.manifest import Split, SplitLayer
from recon_cli.branching.plan import BranchingPlan
from recon_cli.errors import ReconError, quoted
from recon_cli.layers.names import LayerTable


@dataclass(frozen=True)
class SplitParts:
    """What the split layers of a network consist of, and the statistics that are split.

    :ivar layers: name or alias of a split layer -> the layer.
    :ivar modules: name or alias of a split layer that is copied as a module -> the module.
    :ivar tensors: name of a split layer, or of one whose statistics are split -> the split tensors, with their names.
    :ivar bare: name of a tensor that is copied by itself -> its layer, or the statistics that it belongs to.
    """

    layers: Mapping[str, SplitLayer]
    modules: Mapping[str, nn.Module]
    tensors: Mapping[str, list[tuple[str, torch.Tensor]]]
    bare: Mapping[str, Split]

    def all_tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor that is split."""
        for tensors in self.tensors.values():
            yield from (tensor for _, tensor in tensors)


def find_split_parts(model: nn.Module, plan: BranchingPlan) -> SplitParts:
    """Find what is split: whole modules; tensors where other layers lie inside, and of running statistics."""
    table = LayerTable.of(model.state_dict())
    layers: dict[str, SplitLayer] = {}
    modules: dict[str, nn.Module] = {}
    tensors: dict[str, list[tuple[str, torch.Tensor]]] = {}
    bare: dict[str, Split] = {}

    def add_bare(split: Split, keys: Iterable[str]) -> None:
        for key in sorted(keys):
            tensor = _tensor_at(model, key)
            if tensor is not None:
                tensors[split.name].append((key, tensor))
                bare[key] = split

    for layer in plan.layers:
        own = tensors.setdefault(layer.name, [])
        for name in (layer.name, *layer.aliases):
            if name not in table.keys:
                continue
            layers[name] = layer
            if table.is_leaf(name):
                modules[name] = walk(model, name)
                own += [(join(name, key), tensor) for key, tensor in _tensors(modules[name])]
                continue
            owners = {key.rpartition(".")[0] for key in table.keys[name]} - {""}
            keys = set(table.keys[name])
            # A buffer that is not saved belongs to its layer all the same.
            for owner in owners:
                keys.update(join(owner, buffer) for buffer in walk(model, owner)._buffers)
            add_bare(layer, keys)
    for each in plan.statistics or ():
        tensors[each.name] = []
        owners = {key.rpartition(".")[0] for key in each.buffers} - {""}
        unsaved = {join(owner, name) for owner in owners for name in walk(model, owner)._non_persistent_buffers_set}
        add_bare(each, unsaved.union(each.buffers))
    return SplitParts(layers, modules, tensors, bare)


def walk(module: nn.Module, path: str) -> nn.Module:
    """The module of that name, by what is registered and not by attributes, which a class may make up.

    :raises ReconError: if there is none.
    """
    for name in path.split(".") if path else ():
        # A TorchScript module has no dictionary here, so `get` is not to be had.
        child = module._modules[name] if name in module._modules else None  # noqa: SIM401
        if child is None:
            raise ReconError(f"the model's state dict has tensors of {quoted(path)}, but no module of that name")
        module = child
    return module


def join(path: str, name: str) -> str:
    """A dotted name."""
    return f"{path}.{name}" if path else name


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _tensor_at(model: nn.Module, key: str) -> torch.Tensor | None:
    owner, _, name = key.rpartition(".")
    module = walk(model, owner)
    for registry in ("_parameters", "_buffers"):
        found: torch.Tensor | None = vars(module)[registry].get(name)
        if found is not None:
            return found
    return None
