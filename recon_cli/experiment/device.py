"""Which device a run takes, and how it is made to repeat."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterator

import torch

from recon_cli.errors import ReconError, quoted
from recon_cli.torchrun import is_one_of_many, local_rank


def choose_device(wish: str) -> torch.device:
    """The device for a run; under `torchrun`, that of this process.

    :param wish: `cpu`, `cuda`, or `auto`, which takes CUDA where there is one.
    :raises ReconError: if CUDA is asked for and there is none, or the wish is another.
    """
    if wish not in ("auto", "cuda", "cpu"):
        raise ReconError(f"the device {quoted(wish)} is not known", "pass `--device auto`, `cuda` or `cpu`")
    available = torch.cuda.is_available()
    if wish == "cuda" and not available:
        raise ReconError("there is no CUDA device that PyTorch can use here", "pass `--device auto` or `--device cpu`")
    if wish == "cpu" or not available:
        return torch.device("cpu")
    if not is_one_of_many():
        return torch.device("cuda")
    if local_rank() >= torch.cuda.device_count():
        raise ReconError(
            f"process {local_rank()} of this machine has no CUDA device of its own: there are "
            f"{torch.cuda.device_count()}",
            "start as many processes as there are devices: `torchrun --nproc-per-node`",
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())


def device_name(device: torch.device) -> str:
    """A device as files name it."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seed all random number generators, and make the operations inside the block choose deterministic kernels.

    Operations that have none run all the same, with PyTorch's own warning. The choice of kernels is undone afterwards.
    """
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    # cuBLAS repeats its sums only with a fixed workspace, which is read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
