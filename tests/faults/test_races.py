"""Several writers to one name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.faults.conftest import LAYERS, check_branched, command, environment, snapshot, split

BOTH = [[], ["unnamed files"]]


def race(source: Path, folder: Path, faults: dict[str, object], *more: str) -> list[tuple[int, str]]:
    """Let eight processes split another layer each into one file; return their exit codes and messages."""
    processes = [
        subprocess.Popen(
            command(*split(source, "b.safetensors", layer), *more, faults=faults),
            cwd=folder, env=environment(), text=True, stderr=subprocess.PIPE,
        )
        for layer in LAYERS
    ]  # fmt: skip
    # Every process stands before its first name with all written; then they race.
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    return [(code, message) for message, code in ended]


@pytest.mark.parametrize("lacking", [[], pytest.param(["unnamed files"], marks=pytest.mark.slow)])
def test_of_eight_writers_one_wins_and_the_others_say_why(tmp_path, source, lacking):
    ended = race(source, tmp_path, {"lacking": lacking})
    winners = [layer for layer, (code, _) in zip(LAYERS, ended, strict=True) if code == 0]
    assert len(winners) == 1
    losers = [message for code, message in ended if code == 2]
    assert len(losers) == 7
    assert all(message.startswith("error: `b.") and "exists already" in message for message in losers), losers
    check_branched(tmp_path / "b.safetensors", source, winners)
    assert sorted(snapshot(tmp_path)) == ["b.manifest.json", "b.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("lacking", BOTH)
def test_of_eight_writers_that_replace_each_other_the_files_of_one_are_left(tmp_path, source, lacking):
    for _ in range(5):
        assert race(source, tmp_path, {"lacking": lacking}, "--force") == [(0, "")] * 8
        (layer,) = json.loads((tmp_path / "b.manifest.json").read_bytes())["layers"]
        check_branched(tmp_path / "b.safetensors", source, [layer["name"]])
        assert sorted(snapshot(tmp_path)) == ["b.manifest.json", "b.safetensors"]
