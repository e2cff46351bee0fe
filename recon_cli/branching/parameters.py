"""Which tensors of a checkpoint are parameters, and which layer each belongs to."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import cached_property

from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.artifacts.scores import UnrankedLayer
from recon_cli.checkpoints.prefixes import Unprefixed
from recon_cli.checkpoints.tensors import TensorInfo
from recon_cli.layers.names import LayerTable, is_parameter, layer_of


class ParameterTable:
    """The parameters of a checkpoint, a tied one once.

    The ranking of a profile names the parameters of its layers; those of other layers are known by name and type.

    :ivar tensors: all tensors of the checkpoint by their names, in its order.
    :ivar layers: its layers.
    :ivar prefix: what stands before all of these names in the file.
    """

    def __init__(self, source: Unprefixed, ranking: Ranking | None) -> None:
        self.prefix = source.prefix
        self.tensors = {tensor.key: tensor for tensor in source.tensors}
        self.layers = LayerTable.of(self.tensors)
        self._format = source.FORMAT
        self._ties = source.ties
        self._known = _known_parameters(ranking, self.tensors)

    @property
    def has_lost_order(self) -> bool:
        """Whether the tensors may stand in another order than the network's.

        Safetensors' own writer puts those of each type in the order of their names; programs and folders have an order
        of their own.
        """
        if self._format in ("distributed", "exported"):
            return True
        last: dict[str, str] = {}
        for key, tensor in self.tensors.items():
            if key < last.get(tensor.dtype, ""):
                return False
            last[tensor.dtype] = key
        return self._format == "safetensors"

    @cached_property
    def own(self) -> dict[str, TensorInfo]:
        """The parameters of the checkpoint by their names."""
        return {key: tensor for key, tensor in self.tensors.items() if self._is_parameter(key)}

    def all(self) -> list[TensorInfo]:
        """The parameters of the checkpoint."""
        return list(self.own.values())

    def among(self, keys: Iterable[str]) -> list[TensorInfo]:
        """The parameters among tensors of the checkpoint."""
        return [self.own[key] for key in keys if key in self.own]

    def of_layers(self, names: Iterable[str]) -> list[TensorInfo]:
        """The parameters of layers; names that the checkpoint has not are passed over."""
        return self.among(key for name in names for key in self.layers.keys.get(name, ()))

    def _is_parameter(self, key: str) -> bool:
        known = self._known.get(layer_of(key)) if self._known else None
        if known is not None:
            return key in known
        return key not in self._ties and is_parameter(key, self.tensors[key].dtype)


def count(tensors: Iterable[TensorInfo]) -> int:
    """The elements of tensors."""
    return sum(tensor.size for tensor in tensors)


def count_bytes(tensors: Iterable[TensorInfo]) -> int:
    """The bytes of tensors."""
    return sum(tensor.bytes for tensor in tensors)


def _known_parameters(ranking: Ranking | None, keys: Container[str]) -> dict[str, frozenset[str]]:
    """For each layer whose parameters a ranking names, their names in a checkpoint, a tied one under one of them."""
    known: dict[str, frozenset[str]] = {}
    layers: list[RankedLayer | UnrankedLayer] = [*ranking.layers, *(ranking.unranked or ())] if ranking else []
    for layer in layers:
        if layer.parameters is not None:
            names = (layer.name, *layer.aliases)
            own = {_name_in(keys, parameter, names) for parameter in layer.parameters}
            known.update(dict.fromkeys(names, frozenset(own)))
    return known


def _name_in(keys: Container[str], parameter: str, names: Sequence[str]) -> str:
    """The name under which a checkpoint holds a parameter; it may have kept another one of a tied parameter."""
    rest = parameter[len(layer_of(parameter)) :]
    return next((name for name in (parameter, *(alias + rest for alias in names)) if name in keys), parameter)
