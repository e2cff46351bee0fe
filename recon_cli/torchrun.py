"""What `torchrun` tells the processes that it starts, read without importing torch."""

from __future__ import annotations

import os


def is_one_of_many() -> bool:
    """Whether `torchrun` started this process beside others."""
    return "RANK" in os.environ and _number("WORLD_SIZE", 1) > 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks: rank 0, or the only one."""
    return not is_one_of_many() or _number("RANK", 0) == 0


def local_rank() -> int:
    """Which of the processes on this machine this one is."""
    return _number("LOCAL_RANK", 0)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
