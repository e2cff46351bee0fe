"""What somebody at a terminal sees."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path


def on_a_terminal(*arguments: object, cwd: Path) -> tuple[int, str]:
    """Run `recon` with a terminal of 80 columns as its standard error; return its exit code and what was shown."""
    ours, theirs = pty.openpty()
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "80", "TERM": "xterm",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "recon_cli", *(str(argument) for argument in arguments)]
    with subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:
            pass  # the other end is closed
        finally:
            os.close(ours)
        return process.wait(), shown.decode(errors="replace")


def test_a_profile_shows_its_progress_and_the_layers_that_lead(config, tmp_path):
    path = config(profile={"iterations": 40})
    code, shown = on_a_terminal("profile", path, "-o", "s.json", cwd=tmp_path)
    assert code == 0
    for words in ("profiling on cpu", "/40", "leading layers", "cos < -0.1", "body.0"):
        assert words in shown


def test_quiet_is_quiet_on_a_terminal_too(config, tmp_path):
    assert on_a_terminal("profile", config(), "-o", "s.json", "--quiet", cwd=tmp_path) == (0, "")
