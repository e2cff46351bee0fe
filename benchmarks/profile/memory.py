"""Peak memory of a process that does the steps of one way.

`python -m benchmarks.profile.memory CASE DEVICE WAY` prints the bytes; `python -m benchmarks.profile` starts it. It has
to be started by a small process: on Linux, the peak that a process reports is never below that of the one that started
it.
"""

from __future__ import annotations

import resource
import sys
import warnings

import torch

from benchmarks.profile.bench import Bench
from benchmarks.profile.cases import CASES
from benchmarks.profile.ways import WAYS

_STEPS = 3


def main(name: str, device: str, way: str) -> None:
    """Do a few steps, and print the peak."""
    warnings.filterwarnings("ignore")
    bench = Bench(CASES[name], device)
    step = WAYS[way](bench)
    for _ in range(_STEPS):
        step()
    print(peak_bytes(bench.device))


def peak_bytes(device: torch.device) -> int:
    """The most memory of this process so far, resident or on the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
