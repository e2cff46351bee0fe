"""Running the command under `torchrun`, for the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.stopping import ENVIRONMENT


def torchrun(folder: Path, size: int, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command on several ranks, which speak over the loopback device and end with it."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
            "--nproc-per-node", str(size), "-m", "recon_cli", *map(str, arguments),
        ],
        cwd=folder,
        env=os.environ | ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "lo", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for its end; the exit code, standard output and standard error."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err
