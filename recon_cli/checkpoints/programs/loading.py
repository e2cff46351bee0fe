"""Loading programs with PyTorch, which can run code from their files, so it has to be asked for."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from recon_cli.checkpoints.sniffing import PROGRAMS, Program
from recon_cli.errors import ReconError, describe, quoted

MODE_AT = {
    "batch_norm": 5, "instance_norm": 5, "_native_batch_norm_legit_functional": 5,
    "dropout": 2, "dropout_": 2, "alpha_dropout": 2, "feature_dropout": 2, "native_dropout": 2,
}  # fmt: skip
"""ATen's operations that have a mode, and the position of the argument that is true when they train."""

_FUNCTIONAL_BATCH_NORM = "_native_batch_norm_legit_functional"
_EVALUATING_BATCH_NORM = "_native_batch_norm_legit_no_training"


def check_consent(path: Path, kind: Program, *, allow_code: bool) -> None:
    """Refuse to open a program unasked.

    :param allow_code: whether its user has asked for it.
    """
    if not allow_code:
        raise ReconError(
            f"the {PROGRAMS[kind]} {quoted(path)} is not opened unasked, because that can run code from the file",
            f"pass `--allow-{kind}` if you trust where the file comes from",
        )


def check_script_supported() -> None:
    """Refuse a Python on which PyTorch has no TorchScript."""
    if sys.version_info >= (3, 14):
        raise ReconError(
            "PyTorch does not support TorchScript on Python 3.14 and later",
            "run Recon on an earlier Python, or give the network as an exported program",
        )


def load_script(path: Path, device: torch.device) -> Any:
    """Load a TorchScript file.

    :param device: where its tensors are put.
    :raises ReconError: if PyTorch cannot.
    """
    check_script_supported()
    try:
        with warnings.catch_warnings():
            # That TorchScript is old is known to those who have such files.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    # A damaged file makes PyTorch fail in any way.
    except Exception as error:
        raise script_error(path, error) from error


def script_error(path: Path, error: Exception) -> ReconError:
    """What is said of a TorchScript file in which PyTorch has failed."""
    return ReconError(f"the TorchScript file {quoted(path)} cannot be opened: {describe(error)}")


def fixed_modes(block: Any) -> Iterator[bool]:
    """For each operation of a TorchScript graph whose mode is fixed, as it was traced: whether it trains."""
    for node in block.nodes():
        at = MODE_AT.get(node.kind().removeprefix("aten::"))
        if at is not None and (mode := node.inputsAt(at)).node().kind() == "prim::Constant":
            yield bool(mode.toIValue())
        for inner in node.blocks():
            yield from fixed_modes(inner)


def load_exported(path: Path) -> ExportedProgram:
    """Load an exported program.

    :raises ReconError: if PyTorch cannot.
    """
    try:
        # A name that does not end in `.pt2` would be warned of, an open file is not.
        with path.open("rb") as file, _without_log("torch.export"):
            return torch.export.load(file)
    # A damaged file makes PyTorch fail in any way.
    except Exception as error:
        raise cannot_be_opened(path, error) from error


def cannot_be_opened(path: Path, error: Exception) -> ReconError:
    """What is said of an exported program in which PyTorch has failed."""
    # What lies behind a RuntimeError is only logged.
    is_told = not isinstance(error, RuntimeError)
    reason = describe(error) if is_told else "it is damaged, or of another version of PyTorch"
    return ReconError(f"the exported program {quoted(path)} cannot be opened: {reason}")


def modes_of(program: ExportedProgram) -> Iterator[tuple[str, bool]]:
    """The operations of a program that have a mode, and whether it is to train."""
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            name = node.target.overloadpacket.__name__
            at = MODE_AT.get(name, len(node.args))
            if name == _EVALUATING_BATCH_NORM:
                yield name, False
            elif at < len(node.args):
                yield name, bool(node.args[at])


def is_trainable(program: ExportedProgram) -> bool:
    """Whether a program's backward pass works; one in training mode that was made functional has none.

    The new running statistics overwrite those that the backward pass still needs.
    """
    updates = bool(program.graph_signature.buffers_to_mutate)
    return not (updates and (_FUNCTIONAL_BATCH_NORM, True) in modes_of(program))


@contextmanager
def _without_log(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
