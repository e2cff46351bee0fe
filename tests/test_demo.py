"""The demo, as the README has it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_demo_runs_up_to_its_trainings(tmp_path):
    shown = subprocess.run(
        ["make", "-n", "demo", f"OUT={tmp_path}", "VENV=none"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    _, *words = shlex.split(shown.stdout.splitlines()[-1])
    # What trains is the same for every config, and takes minutes.
    subprocess.run([sys.executable, "-m", "recon_cli", *words, "--until", "split"], cwd=ROOT, check=True)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert written == {
        "ledger.json", "scores.json", "ranking.json", "network.safetensors", "splits/recon.safetensors",
        "splits/recon.manifest.json",
    }  # fmt: skip
