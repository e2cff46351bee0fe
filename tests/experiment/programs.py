"""Networks written to files: compiled, traced and exported."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

Writer = Callable[[nn.Module, tuple[Any, ...], Path], None]


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings that TorchScript is old, and those of its tracer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def script(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    with quietly():
        torch.jit.script(model).save(str(path))


def trace(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    # Tracing runs the network, which moves the statistics of BatchNorm.
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with quietly():
        traced = torch.jit.trace(model, inputs, strict=False, check_trace=False)
        traced.load_state_dict(state)
        traced.save(str(path))


def export(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    # PyTorch warns of names that do not end in `.pt2`, but not of open files.
    with quietly(), path.open("wb") as file:
        torch.export.save(torch.export.export(model, inputs), file)


WRITERS: dict[str, tuple[str, Writer]] = {
    "scripted": ("torchscript", script),
    "traced": ("torchscript", trace),
    "exported": ("exported", export),
}
"""For each way to write a network to a file: the key of the config that names such a file, and the way."""


def write(how: str, model: nn.Module, inputs: tuple[Any, ...], folder: Path) -> dict[str, str]:
    """Write a network to a file, and give the part of a config that names it."""
    key, writer = WRITERS[how]
    path = folder / ("net.pt2" if key == "exported" else "net.pt")
    writer(model, inputs, path)
    return {key: path.name}
