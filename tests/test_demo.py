"""The demo, as the README has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_demo_leaves_its_files_and_says_what_was_found(tmp_path):
    command = [sys.executable, "demo/run.py", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "scores.json", "ranking.json", "model.safetensors", "branched.safetensors", "branched.manifest.json",
    }  # fmt: skip
    last = result.stdout.splitlines()[-5:]
    assert last[0].startswith("Found: the two tasks share 19 layers.")
    assert str(tmp_path) in "".join(last)
