"""The examples of docs/loops.md as code to run, and what the tests of all loops compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from recon_cli.datasets import small_multi_fashion_mnist

DOCUMENT = Path(__file__).parents[2] / "docs" / "loops.md"
TASKS = ["fashion", "mnist"]
BATCHES = 6


def python_blocks(section: str) -> list[str]:
    """The Python code of a section: what is indented under its heading, a block for each stretch between paragraphs."""
    text = DOCUMENT.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("    ") or not line:
            blocks[-1].append(line[4:])
        else:
            blocks.append([])
    code = ["\n".join(block).strip() for block in blocks]
    return [block for block in code if block and not block.startswith("pip install")]


def run(*blocks: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run blocks one after another, and give the names that they define."""
    names = {} if names is None else names
    for block in blocks:
        exec(compile(block, DOCUMENT.name, "exec"), names)
    return names


def few_images() -> Subset:
    """Enough images for `BATCHES` batches of 8."""
    return Subset(small_multi_fashion_mnist(), range(8 * BATCHES))


def few_batches() -> DataLoader:
    """`BATCHES` batches of 8 images, always in the same order."""
    return DataLoader(few_images(), batch_size=8)


def assert_trained_alike(start: nn.Module, one: nn.Module, two: nn.Module, *, within: float = 1e-10) -> None:
    """Check that training took two networks from `start` to the same place.

    :param within: how far apart they may be, as a part of the way that they went.
    """
    before, here, there = (
        torch.cat([parameter.detach().double().flatten() for parameter in network.parameters()])
        for network in (start, one, two)
    )
    way = (here - before).norm()
    assert way > 0
    assert (here - there).norm() / way <= within
