"""A training of several ranks next to that of one process with their batches put together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import read_scores
from tests.training.folders import document, log, parts, weights

SGD = {"target": "SGD", "kwargs": {"lr": 0.2, "momentum": 0.9}}


def without_norm(config, name: str, batch_size: int, **changes: object) -> Path:
    """A config whose network has no statistics of its rank's batch alone."""
    given = {
        "model": {"target": "tests.networks:without_norm"},
        "data": {"target": "tests.networks:two_task_data", "batch_size": batch_size, "kwargs": {"size": 43}},
        "optimizer": SGD,
    }
    return config(name, **parts(**given | changes))


def assert_trained_alike(ranks: Path, alone: Path) -> None:
    """Check that two output folders hold the same to rounding, and nothing of the runs."""
    folders = sorted(file.parent.relative_to(alone) for file in alone.rglob("training.json"))
    assert folders == sorted(file.parent.relative_to(ranks) for file in ranks.rglob("training.json"))
    for folder in folders:
        one, two = ranks / folder, alone / folder
        for name in ("last.safetensors", "best.safetensors"):
            if (two / name).exists():
                mine, theirs = weights(one / name), weights(two / name)
                for key, value in theirs.items():
                    torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-5, msg=key)
        for mine, theirs in zip(log(one), log(two), strict=True):
            assert flat(mine) == pytest.approx(flat(theirs), rel=1e-4)
        assert document(one / "training.json")["processes"] == 2
        if (two / "scores.json").exists():
            for mine, theirs in zip(
                read_scores(one / "scores.json").layers, read_scores(two / "scores.json").layers, strict=True
            ):
                assert (mine.name, mine.type) == (theirs.name, theirs.type)
                assert [m.gds for m in mine.stages] == [pytest.approx(t.gds, abs=1e-4) for t in theirs.stages]
    assert not list(ranks.rglob("run"))


def flat(line: object, name: str = "") -> dict[str, object]:
    """A log line as names and numbers; texts and flags are part of the names."""
    if isinstance(line, dict):
        return {key: value for part, inner in line.items() for key, value in flat(inner, f"{name}.{part}").items()}
    if isinstance(line, list):
        return {key: value for n, inner in enumerate(line) for key, value in flat(inner, f"{name}.{n}").items()}
    return {name: line} if isinstance(line, float) else {f"{name}={line}": 0.0}
