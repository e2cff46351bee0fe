"""The states of all random number generators that a run draws from."""

from __future__ import annotations

import importlib
import random
import sys
from typing import Any

import torch


def random_states() -> dict[str, Any]:
    """The states as plain data and tensors: Python's, NumPy's if it is loaded, PyTorch's on the CPU and on CUDA."""
    version, words, gauss = random.getstate()
    numpy = None
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        numpy = [name, keys.tolist(), *rest]
    return {
        "python": [version, list(words), gauss],
        "numpy": numpy,
        "torch": torch.get_rng_state(),
        "cuda": cuda_states(),
    }


def cuda_states() -> list[torch.Tensor]:
    """The states of PyTorch's generators on CUDA; none as long as nothing has used it, as to ask would begin to."""
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]  # torch has no type for it


def set_random_states(states: dict[str, Any]) -> None:
    """Go on drawing where `random_states` was called."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    if states["numpy"] is not None:
        importlib.import_module("numpy").random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
