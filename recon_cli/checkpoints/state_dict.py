"""State dicts as tensors: read safely from safetensors or torch files, and loaded into a module."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from recon_cli.checkpoints.sniffing import sniff_format
from recon_cli.errors import ReconError, listed, quoted


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict; torch files are unpickled with `weights_only=True` and never otherwise.

    :raises ReconError: if the file cannot be read or holds anything but tensors by their names.
    """
    if sniff_format(path) == "safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ReconError(f"{quoted(path)} is not a valid safetensors file: {error}") from error
    return read_torch_file(path)


def read_torch_file(path: Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict from a file that `torch.save` wrote.

    :raises ReconError: if it cannot be read as one.
    """
    try:
        with warnings.catch_warnings():
            # What PyTorch warns of while it reads is an error of ours below, or of no interest to the user.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises the unsafe mode, so it is not shown.
        raise ReconError(
            f"{quoted(path)} holds more than tensors and plain containers, so it is not opened",
            "save the weights alone: `torch.save(model.state_dict(), path)`",
        ) from error
    # A damaged file makes PyTorch fail in any way.
    except Exception as error:
        raise ReconError(
            f"{quoted(path)} is not a file of tensors that `torch.save` wrote, or it is damaged",
            "save the weights alone: `torch.save(model.state_dict(), path)`",
        ) from error
    return _flat(content, path)


def load_into(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a module; both must have the same names and shapes.

    :raises ReconError: naming what differs.
    """
    state = read_state_dict(path)
    own = model.state_dict(keep_vars=True)
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


def _flat(content: object, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise ReconError(
            f"{quoted(path)} holds a {quoted(type(content).__name__)}, not a state dict",
            "save the weights alone: `torch.save(model.state_dict(), path)`",
        )
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            continue
        nested = [k for k, v in content.items() if isinstance(v, Mapping) and _holds_tensors(v)]
        if nested:
            raise ReconError(
                f"{quoted(path)} holds its weights under {listed(nested)}, beside other things",
                f"save them alone: `torch.save(torch.load(path, weights_only=True)[{str(nested[0])!r}], 'weights.pt')`",
            )
        raise ReconError(
            f"{quoted(path)} is no flat state dict: its entry {quoted(key)} is a {quoted(type(value).__name__)}",
            "save the weights alone: `torch.save(model.state_dict(), path)`",
        )
    return dict(content)


def _holds_tensors(content: Mapping[object, object]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in content.values())
