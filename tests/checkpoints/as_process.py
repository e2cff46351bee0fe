"""Splitting any checkpoint with the command as a process of its own, and comparing the result with plain torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file


def check_split(checkpoint: Path, state: Mapping[str, torch.Tensor], layer: str, output: Path, *options: str) -> None:
    """Split a layer for the tasks a and b, and check every tensor of the result.

    :param state: what the checkpoint holds, read by other means.
    """
    split = ["split", checkpoint, "-o", output, "--layers", layer, "--tasks", "a,b", *options]
    for arguments in (split, ["verify", output, "--source", checkpoint]):
        command = [sys.executable, "-m", "recon_cli", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    found = load_file(output)
    wanted = {}
    for key, value in state.items():
        rest = key.removeprefix(f"{layer}.")
        names = [key] if rest == key else [f"{layer}.tasks.{task}.{rest}" for task in "ab"]
        wanted.update(dict.fromkeys(names, value))
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def check_without_torch(checkpoint: Path) -> None:
    """Check that a checkpoint of row-major tensors is read in a process that never imports torch."""
    code = (
        "import sys, pathlib; from recon_cli.checkpoints.opening import open_checkpoint;"
        "from recon_cli.checkpoints.streaming import Run, stream;"
        "source = open_checkpoint(pathlib.Path(sys.argv[1]));"
        "stream([Run(t.extent, t.begin, t.bytes) for t in source.tensors if 'turned' not in t.key]);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(checkpoint)], check=True)
