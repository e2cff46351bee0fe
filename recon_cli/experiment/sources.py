"""Where a network comes from: a target that makes it, a TorchScript file, or an exported program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from recon_cli.artifacts.digests import digest_file
from recon_cli.checkpoints.programs.loading import (
    cannot_be_opened,
    check_consent,
    fixed_modes,
    is_trainable,
    load_exported,
    load_script,
    modes_of,
    script_error,
)
from recon_cli.checkpoints.sniffing import PROGRAMS, Program, check_program
from recon_cli.checkpoints.state_dict import ties_in_memory
from recon_cli.config.schema import LoadedConfig
from recon_cli.errors import ReconError, counted, quoted
from recon_cli.experiment.targets import call_target, user_code


@dataclass(frozen=True)
class Network:
    """A network on its device and in training mode, unless its file fixes the mode.

    :ivar digest: digest of the file that holds it; None where a target made it.
    :ivar warnings: what is probably not as its user wants it, as sentences.
    """

    module: nn.Module
    digest: str | None = None
    warnings: tuple[str, ...] = ()


def load_network(loaded: LoadedConfig, device: torch.device, *, allow_code: bool) -> Network:
    """Make or open the network that a config names.

    :param allow_code: whether a file may be opened although that can run code from it.
    :raises ReconError: if the target fails, or the file is missing, of another kind, damaged or cannot be trained.
    """
    section = loaded.config.model
    if section.torchscript is not None:
        return _open(loaded.folder / section.torchscript, "torchscript", _open_torchscript, device, allow_code)
    if section.exported is not None:
        return _open(loaded.folder / section.exported, "exported", _open_exported, device, allow_code)
    assert section.target is not None
    module = call_target("model.target", section.target, **section.kwargs)
    if not isinstance(module, nn.Module):
        raise ReconError(
            f"model.target {quoted(section.target)} returned a {quoted(type(module).__name__)}; "
            f"an nn.Module was expected"
        )
    with user_code("the move of the model to the device"):
        module.to(device).train()
    return Network(module)


def _open(
    path: Path,
    kind: Program,
    read: Callable[[Path, torch.device], tuple[nn.Module, int]],
    device: torch.device,
    allow_code: bool,
) -> Network:
    check_program(path, kind)
    check_consent(path, kind, allow_code=allow_code)
    digest = digest_file(path)
    module, evaluating = read(path, device)
    if not evaluating:
        return Network(module, digest)
    warning = (
        f"the {PROGRAMS[kind]} {quoted(path)} keeps {counted(evaluating, 'BatchNorm or dropout operation')} in "
        f"evaluation mode; to measure the network as it trains, call `model.train()` before it is "
        f"{'traced' if kind == 'torchscript' else 'exported'}"
    )
    return Network(module, digest, (warning,))


def _open_torchscript(path: Path, device: torch.device) -> tuple[nn.Module, int]:
    """Open a TorchScript file.

    :returns: the module, and how many of its operations evaluate whatever the module's mode.
    """
    module = load_script(path, device)
    try:
        evaluating = sum(not trains for trains in fixed_modes(module.inlined_graph))
    # A damaged file makes PyTorch fail in any way.
    except Exception as error:
        raise script_error(path, error) from error
    if next(module.parameters(), None) is None:
        raise ReconError(
            f"the TorchScript file {quoted(path)} has no parameters, so there is no layer to measure",
            "`torch.jit.freeze` makes constants of them; save the module without it",
        )
    module.train()
    _run_as_written(module)
    return module, evaluating


def _run_as_written(module: Any) -> None:
    """Keep the optimiser of TorchScript away from a module's calls.

    It gathers operations of several tasks into one node of the autograd graph, which then gives a task a gradient of
    zeros for the other tasks' layers instead of none.
    """
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return forward(*args, **kwargs)

    module.forward = run


def _open_exported(path: Path, device: torch.device) -> tuple[nn.Module, int]:
    """Open an exported program.

    :returns: the module, and how many of its operations evaluate; the mode of all is fixed.
    """
    program = load_exported(path)
    try:
        ties = ties_in_memory(program.state_dict)
        if any(value.device.type != device.type for value in program.state_dict.values()):
            program = move_to_device_pass(program, device)
        module = program.module()
    # A damaged file makes PyTorch fail in any way.
    except Exception as error:
        raise cannot_be_opened(path, error) from error
    if not is_trainable(program):
        raise ReconError(
            f"the exported program {quoted(path)} cannot be trained, because `run_decompositions` made it functional",
            "save the program as `torch.export.export` returns it",
        )
    _tie(module, ties)
    return module, sum(not trains for _, trains in modes_of(program))


def _tie(module: nn.Module, ties: dict[str, str]) -> None:
    """Make one tensor again of parameters that a file holds once; each gets a tensor of its own when it is read."""
    for name, first in ties.items():
        owner, _, own = name.rpartition(".")
        source, _, theirs = first.rpartition(".")
        setattr(module.get_submodule(owner), own, getattr(module.get_submodule(source), theirs))
