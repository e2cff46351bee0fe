"""Running a function on several ranks of this machine, for the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, multiprocessing

Work = Callable[[int, int, str], None]
"""Called with the rank, the number of ranks and a folder to leave results in."""


def run_on_ranks(work: Work, size: int, folder: Path) -> None:
    """Run a function of a test module in `size` processes that speak over the loopback device; they end with it."""
    multiprocessing.start_processes(_run, (work, size, str(folder)), nprocs=size, start_method="spawn")


def _run(rank: int, work: Work, size: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    work(rank, size, folder)
    # Nobody leaves while another still speaks to it.
    distributed.barrier()
    distributed.destroy_process_group()
