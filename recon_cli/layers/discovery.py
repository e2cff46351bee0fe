"""The layers of a network, found from its modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from recon_cli.errors import ReconError, quoted
from recon_cli.layers.names import layer_of


@dataclass(frozen=True)
class Layer:
    """A module that directly owns parameters, or several that share one.

    :ivar name: its qualified module name, that of the first one registered where several are tied.
    :ivar type: class name of the module, or `Parameter` for one that the root module owns.
    :ivar aliases: the names of further modules that are tied to it.
    :ivar parameters: its parameters by their first qualified name, each tensor once, in registration order.
    """

    name: str
    type: str
    aliases: tuple[str, ...]
    parameters: dict[str, nn.Parameter]

    def matches(self, patterns: Iterable[str]) -> bool:
        """Whether one of its names is of one of these patterns, such as `layer1.*`."""
        return any(fnmatchcase(name, pattern) for name in (self.name, *self.aliases) for pattern in patterns)

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def bytes(self) -> int:
        """The size of its parameters in bytes."""
        return sum(p.numel() * p.element_size() for p in self.parameters.values())

    @property
    def trainable(self) -> bool:
        """Whether any of its parameters requires a gradient."""
        return any(parameter.requires_grad for parameter in self.parameters.values())


def discover_layers(model: nn.Module) -> list[Layer]:
    """Find the layers of a network in the order in which it registers them.

    Modules that own a parameter together (tied weights) are one layer with aliases.

    :raises ReconError: if a parameter has no shape yet, as in lazy modules before their first batch.
    """
    owners: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ReconError(
                f"the parameter {quoted(name)} has no shape yet",
                "run the model on one batch before it is profiled, so that its lazy modules are initialised",
            )
        owners.setdefault(layer_of(name), {})[name] = parameter
    types = {name: _class_name(module) for name, module in model.named_modules(remove_duplicate=False)}
    if isinstance(model, torch.fx.GraphModule):
        recorded = _recorded_class_names(model)
        types = {name: recorded.get(name, kind) if kind == "Module" else kind for name, kind in types.items()}
    return [_merge(types, group, owners) for group in _tied_groups(owners)]


def buffer_owners(model: nn.Module) -> list[str]:
    """The modules that own saved buffers and no parameters, by the name that a layer in their place would have."""
    layers = {name for layer in discover_layers(model) for name in (layer.name, *layer.aliases)}
    return [name for name in dict.fromkeys(layer_of(key) for key in model.state_dict()) if name not in layers]


def _tied_groups(owners: dict[str, dict[str, nn.Parameter]]) -> Iterator[list[str]]:
    """Layer names, grouped where they share a parameter; groups and names in registration order."""
    group_of = {name: [name] for name in owners}
    first_owner: dict[int, str] = {}
    for name, parameters in owners.items():
        for parameter in parameters.values():
            group = group_of[first_owner.setdefault(id(parameter), name)]
            other = group_of[name]
            if group is not other:
                group.extend(other)
                for member in other:
                    group_of[member] = group
    order = {name: index for index, name in enumerate(owners)}
    for group in {id(group): group for group in group_of.values()}.values():
        yield sorted(group, key=order.__getitem__)


def _merge(types: Mapping[str, str], names: list[str], owners: Mapping[str, Mapping[str, nn.Parameter]]) -> Layer:
    parameters: dict[str, nn.Parameter] = {}
    known: set[int] = set()
    for name in names:
        for key, parameter in owners[name].items():
            if id(parameter) not in known:
                known.add(id(parameter))
                parameters[key] = parameter
    return Layer(names[0], types.get(names[0], "Parameter"), tuple(names[1:]), parameters)


def _class_name(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return _plain(module.original_name)
    # A parametrised module's class is made at run time; its base is the one that people know.
    kind = type(module)
    if len(kind.__mro__) > 2 and kind.__mro__[1].__name__ == "FSDPModule":
        # So is that of a sharded one, and between them is another.
        kind = kind.__mro__[2]
    parametrised = torch.nn.utils.parametrize.is_parametrized(module)
    return kind.__mro__[1].__name__ if parametrised else kind.__name__


def _recorded_class_names(model: torch.fx.GraphModule) -> dict[str, str]:
    """The classes that the modules of an exported network had; its graph records them, the modules are plain ones."""
    names = {}
    for node in model.graph.nodes:
        for name, kind in (node.meta.get("nn_module_stack") or {}).values():
            names[name] = _plain(kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__)
    return names


def _plain(class_name: str) -> str:
    """A class's name in an archive, without what PyTorch puts before that of a parametrised module."""
    return class_name.removeprefix("Parametrized")
