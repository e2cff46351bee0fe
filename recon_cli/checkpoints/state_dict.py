"""State dicts as tensors: read from checkpoints of any kind, and loaded into a module."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from recon_cli.checkpoints.elements import TYPES
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.prefixes import wrapper_prefix
from recon_cli.checkpoints.streaming import MemoryPlace, Run, stream
from recon_cli.checkpoints.tensors import StoredTensor
from recon_cli.errors import ReconError, listed, quoted


def read_state_dict(path: Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint of any kind into memory; tied tensors are one object.

    :param key: the path of the weights in a torch file that holds more.
    :raises ReconError: if the file cannot be read or holds no state dict.
    """
    with open_checkpoint(path, key) as source:
        own = [tensor for tensor in source.tensors if tensor.key not in source.ties]
        loaded = {tensor.key: torch.empty(tensor.bytes, dtype=torch.uint8) for tensor in own}
        stream([_loading(tensor, loaded[tensor.key]) for tensor in own if tensor.bytes])
        source.check_unchanged()
        state = {tensor.key: _typed(tensor, loaded[tensor.key]) for tensor in own}
        return {tensor.key: state[source.ties.get(tensor.key, tensor.key)] for tensor in source.tensors}


def _loading(tensor: StoredTensor, data: torch.Tensor) -> Run:
    buffer = memoryview((ctypes.c_char * tensor.bytes).from_address(data.data_ptr())).cast("B")
    return Run(tensor.extent, tensor.begin, tensor.bytes, [MemoryPlace(buffer)], digest=False)


def _typed(tensor: StoredTensor, data: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in TYPES:
        raise ReconError(f"the tensor {quoted(tensor.key)} has the type {tensor.dtype}, which torch does not have")
    return data.view(TYPES[tensor.dtype]).view(tensor.shape)


def load_into(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a module; both must have the same names and shapes.

    What a wrapper put before the names, such as the `module.` of DistributedDataParallel, is passed over.

    :raises ReconError: naming what differs.
    """
    state = read_state_dict(path)
    own = model.state_dict(keep_vars=True)
    prefix = wrapper_prefix(state)
    if prefix != wrapper_prefix(own):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    # A file may leave out all names of a tied tensor but one.
    for names in tied_groups(own):
        held = [name for name in names if name in state]
        state.update({name: state[held[0]] for name in names if held and name not in state})
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected:
        parts = []
        if missing:
            parts.append(f"it lacks {listed(missing)}")
        if unexpected:
            parts.append(f"the model has no {listed(unexpected)}")
        raise ReconError(f"the checkpoint {quoted(path)} does not fit the model: {'; '.join(parts)}")
    for key, tensor in own.items():
        if isinstance(tensor, torch.Tensor) and tensor.shape != state[key].shape:
            raise ReconError(
                f"the checkpoint {quoted(path)} does not fit the model: {quoted(key)} has the shape "
                f"{tuple(state[key].shape)}, the model's {tuple(tensor.shape)}"
            )
    try:
        model.load_state_dict(state)
    # A module can load its state in a way of its own.
    except Exception as error:
        reason = str(error).splitlines()[-1:] or [type(error).__name__]
        raise ReconError(f"the checkpoint {quoted(path)} cannot be loaded: {reason[0].strip()}") from error


def tied_groups(state: Mapping[str, object]) -> list[list[str]]:
    """The names of a state dict that stand for one tensor, where it has several.

    :param state: made with `keep_vars=True`, which keeps the tensors' identity.
    """
    names: dict[int, list[str]] = {}
    for name, value in state.items():
        names.setdefault(id(value), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def ties_in_memory(values: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """For each tensor that lies in the same memory as an earlier one, that one's name."""
    first: dict[tuple[object, ...], str] = {}
    ties = {}
    for key, value in values.items():
        if value.numel() == 0:
            continue
        place = (value.device, value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if place in first:
            ties[key] = first[place]
        else:
            first[place] = key
    return ties
