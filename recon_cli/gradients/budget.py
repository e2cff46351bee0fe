"""How much memory the gradients of several tasks may take at a time."""

from __future__ import annotations

from pathlib import Path

import torch

_PART = 4
"""Without a limit, a quarter of what is free."""


def memory_limit(device: torch.device) -> int:
    """A limit in bytes for somebody who set none: a quarter of the memory that is free on a device now."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        # What PyTorch has reserved and does not use is free as well.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) // _PART
    return _available() // _PART


def _available() -> int:
    """The free memory of the machine in bytes; as good as without an end where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 1 << 62
