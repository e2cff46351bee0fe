"""From the name of a tensor to the name of its layer; one rule for modules and for bare state dicts.

A layer is a module that directly owns a parameter, so its name is the tensor's name without the last part. Two cases
are different: the originals of a parametrised weight (`conv.parametrizations.weight.original0`) belong to the module
that is parametrised, and a parameter of the root module, which has no name to give, is a layer by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Granularity = Literal["layer", "module"]
"""What is ranked and split as a whole: a layer, or all layers of a module."""

_PARAMETRIZATIONS = "parametrizations"

RUNNING_STATISTICS = frozenset({"running_mean", "running_var"})
"""Last parts of tensor names that PyTorch's normalisation layers give to their statistics."""

BUFFER_NAMES = RUNNING_STATISTICS | {"num_batches_tracked"}
"""Last parts of tensor names that PyTorch's own layers give to buffers."""

TOKEN = "tasks"
"""The part of a name that stands between a layer and its branches in a branched network."""

_TRAINABLE = ("F", "BF", "C")


def layer_of(key: str) -> str:
    """The name of the layer that a tensor belongs to.

    :param key: the tensor's name in a state dict.
    """
    if _PARAMETRIZATIONS in key:
        parts = key.split(".")
        if _PARAMETRIZATIONS in parts[:-1]:
            at = parts.index(_PARAMETRIZATIONS)
            return ".".join(parts[:at]) if at else parts[1]
    return key.rpartition(".")[0] or key


def modules_of(layers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The modules that hold layers, each with its layers, both in the order given.

    `layer3.0.conv1` and `layer3.0.bn1` belong to `layer3.0`. A layer that has others directly inside it is a module
    with them (`attn` with `attn.out_proj`), and one that lies in the root module is a module by itself. So every layer
    belongs to one module: `layer3.0.downsample.0` to `layer3.0.downsample`.
    """
    layers = tuple(layers)
    holding = {name.rpartition(".")[0] for name in layers}
    groups: dict[str, list[str]] = {}
    for name in layers:
        module = name if name in holding else name.rpartition(".")[0] or name
        groups.setdefault(module, []).append(name)
    return {module: tuple(names) for module, names in groups.items()}


def is_parameter(key: str, dtype: str) -> bool:
    """Whether a tensor of a state dict is a parameter, as far as its name and type tell.

    A state dict does not mark its buffers. Those of PyTorch's normalisation layers are known by name; integers and
    booleans cannot be trained.

    :param dtype: the type's name as safetensors writes it (`F32`, `I64`, `BF16`).
    """
    parts = key.split(".")
    # A buffer of which every stream has its own bears the name of the stream at its end.
    name = parts[-3] if len(parts) > 2 and parts[-2] == TOKEN else parts[-1]
    return name not in BUFFER_NAMES and dtype.startswith(_TRAINABLE)


@dataclass(frozen=True)
class LayerTable:
    """The layers of a state dict, in its order.

    :ivar keys: the names of the tensors of every layer.
    """

    keys: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, keys: Iterable[str]) -> LayerTable:
        """Group the names of tensors by their layer."""
        groups: dict[str, list[str]] = {}
        for key in keys:
            groups.setdefault(layer_of(key), []).append(key)
        return cls({name: tuple(group) for name, group in groups.items()})

    def is_leaf(self, name: str) -> bool:
        """Whether no other layer lies inside this one, so that the whole module can be copied.

        What belongs to the root module, which is never copied, is no leaf.
        """
        return name not in self._parents and all(key.startswith(f"{name}.") for key in self.keys[name])

    @cached_property
    def _parents(self) -> frozenset[str]:
        parents: set[str] = set()
        for name in self.keys:
            # The parents of a known parent are known.
            while (name := name.rpartition(".")[0]) and name not in parents:
                parents.add(name)
        return frozenset(parents)
