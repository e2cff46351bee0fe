"""Stopping a command as a process of its own, at a moment that nobody chose."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
"""What a command needs that runs as a process of its own."""

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
"""How a command ends that one of these signals stops."""

# A command that saves its state after every step.
_SAVES_ALWAYS = (
    "from recon_cli.runs import keeping\n"
    "keeping.SAVE_SECONDS, keeping.SAVE_SHARE = 0.0, 1.0\n"
    "from recon_cli.cli.app import main\n"
    "raise SystemExit(main())"
)


def stop_at_a_random_moment(number: int, folder: Path, *arguments: object) -> int:
    """Run a command in a folder, send it a signal some time after it has saved a state, and return its exit code."""
    before = _last_saved(folder)
    with subprocess.Popen(
        [sys.executable, "-c", _SAVES_ALWAYS, *map(str, arguments)],
        cwd=folder, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        while _last_saved(folder) == before:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
        time.sleep(random.SystemRandom().uniform(0, 0.5))
        # As a terminal and a scheduler do, to the workers as well.
        os.killpg(process.pid, number)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        return process.wait(timeout=60)


def _last_saved(folder: Path) -> int:
    times = [0]
    for path in folder.rglob("state.pt"):
        try:
            times.append(path.stat().st_mtime_ns)
        except FileNotFoundError:
            # Replaced, or removed as a run was over, just now.
            continue
    return max(times)
