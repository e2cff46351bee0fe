"""Reading what a training wrote, and configs of small trainings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

METRICS = ["accuracy"]
FILES = ("log.jsonl", "last.safetensors", "best.safetensors", "scores.json")
"""What a training writes besides its document; the same training writes the same bytes."""
TIMES = ("seconds", "evaluation_seconds")


def tasks(**both: object) -> list[dict[str, object]]:
    """The two tasks of the small networks, with metrics."""
    return [
        {"name": name, "loss": "cross_entropy", "label": name, "metrics": METRICS, **both} for name in ("left", "right")
    ]


def parts(**changes: object) -> dict[str, object]:
    """The parts of a config of a small training with validation data."""
    return {
        "tasks": tasks(),
        "validation": {"target": "tests.networks:two_task_data", "kwargs": {"size": 21}},
        "train": {"epochs": 3, "log_every": 1},
        **changes,
    }


def log(folder: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The lines of a log, or those of one kind of event."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if event in (None, line["event"])]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    return load_file(path)


def document(path: Path) -> dict[str, Any]:
    """A document without the times in it."""
    content = json.loads(path.read_text())
    for part in (content, *content.get("trainings", ())):
        for name in TIMES:
            part.pop(name, None)
    return content


def assert_same_training(one: Path, two: Path) -> None:
    """Check that two folders of networks hold the same, but for times; nothing but results is in either."""
    for folder in (one, two):
        assert not (folder / "run").exists()
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in two.iterdir()}
    assert {"training.json", "log.jsonl", "last.safetensors"} <= names
    for name in FILES:
        if name in names:
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert document(one / "training.json") == document(two / "training.json")


def assert_same_results(one: Path, two: Path) -> None:
    """Check that two output folders hold the same, but for times."""
    assert document(one / "results.json") == document(two / "results.json")
    folders = sorted(path.parent.relative_to(one) for path in one.rglob("training.json"))
    assert folders
    assert folders == sorted(path.parent.relative_to(two) for path in two.rglob("training.json"))
    for folder in folders:
        assert_same_training(one / folder, two / folder)
