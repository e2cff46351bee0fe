"""The weights of a checkpoint by their layers, with sizes, and the storages that tensors share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from recon_cli.artifacts.inspection import InspectedLayer, InspectedStateDict, InspectedStorage, InspectedTensor
from recon_cli.checkpoints.extents import Extent
from recon_cli.checkpoints.tensors import FoundTensor, StoredTensor, TensorInfo
from recon_cli.inspection.contents import FoundStateDict
from recon_cli.layers.names import LayerTable, is_parameter


def summarise(state_dict: FoundStateDict, *, taken: bool) -> InspectedStateDict:
    """The sizes of a state dict; a tied tensor counts once."""
    once = [tensor for tensor in state_dict.tensors if tensor.tied is None]
    return InspectedStateDict(
        key=state_dict.key,
        taken=taken,
        tensors=len(state_dict.tensors),
        parameters=_parameters(once),
        bytes=_bytes(once),
    )


def inspect_layers(tensors: Sequence[FoundTensor], prefix: str) -> tuple[InspectedLayer, ...]:
    """The layers of the weights.

    :param prefix: what all names begin with; the layers are called without it.
    """
    by_name = {tensor.key[len(prefix) :]: tensor for tensor in tensors}
    layers = []
    for name, keys in LayerTable.of(by_name).keys.items():
        own = [by_name[key] for key in keys]
        layers.append(
            InspectedLayer(
                name=name,
                parameters=_parameters(own),
                bytes=_bytes(own),
                tensors=tuple(_inspect_tensor(tensor) for tensor in own),
            )
        )
    return tuple(layers)


def inspect_storages(tensors: Iterable[FoundTensor]) -> tuple[InspectedStorage, ...]:
    """The storages that hold several tensors, or more than those that are views of them need."""
    views: dict[Extent, list[StoredTensor]] = {}
    for tensor in tensors:
        if isinstance(tensor.info, StoredTensor) and tensor.tied is None and tensor.info.bytes:
            views.setdefault(tensor.info.extent.base, []).append(tensor.info)
    return tuple(
        InspectedStorage(bytes=storage.bytes, tensors=tuple(tensor.key for tensor in group))
        for storage, group in views.items()
        if len(group) > 1 or group[0].bytes < storage.bytes
    )


def _inspect_tensor(tensor: FoundTensor) -> InspectedTensor:
    info = tensor.info
    return InspectedTensor(
        key=tensor.key,
        dtype=None if info is None else info.dtype,
        shape=None if info is None else info.shape,
        bytes=None if info is None or tensor.problem is not None else info.bytes,
        parameter=info is not None and is_parameter(tensor.key, info.dtype),
        tied=tensor.tied,
        problem=tensor.problem,
    )


def _parameters(tensors: Iterable[FoundTensor]) -> int:
    return sum(info.size for info in _readable(tensors) if is_parameter(info.key, info.dtype))


def _bytes(tensors: Iterable[FoundTensor]) -> int:
    return sum(info.bytes for info in _readable(tensors))


def _readable(tensors: Iterable[FoundTensor]) -> Iterator[TensorInfo]:
    """What is known of those whose bytes are there; the others could claim any size."""
    return (tensor.info for tensor in tensors if tensor.info is not None and tensor.problem is None)
