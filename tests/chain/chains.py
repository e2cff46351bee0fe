"""A small project whose network is profiled, split, trained and compared, and who watches that."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from recon_cli.artifacts.run import RunReport
from recon_cli.chain.request import RunRequest
from recon_cli.chain.run import run
from recon_cli.config.loading import load_config
from recon_cli.runs.observer import Nobody

Content = dict[str, Any]
Change = Callable[[Content], object]

MODULE = """\
from tests.networks import TwoTasks, two_task_data


def network(version=1):
    return TwoTasks()
"""

TIMES = ("seconds", "seconds_ratio", "evaluation_seconds", "results_digest", "scores_digest")
"""What differs between two runs of the same: times, and digests of documents that hold some, or the config's digest."""


def content() -> Content:
    """A config; `chain_project.py` lies beside it."""
    return {
        "model": {"target": "chain_project:network"},
        "tasks": [
            {"name": "left", "loss": "cross_entropy", "label": "left", "metrics": ["accuracy"]},
            {"name": "right", "loss": "cross_entropy", "label": "right", "metrics": ["accuracy"]},
        ],
        "data": {"target": "chain_project:two_task_data", "batch_size": 8},
        "validation": {"target": "chain_project:two_task_data", "kwargs": {"size": 24}},
        "optimizer": {"target": "SGD", "kwargs": {"lr": 0.05}},
        "profile": {"iterations": 4},
        "train": {"iterations": 3, "conflicts": {"every": 1}},
        "run": {"severity": 0.0, "select": {"top_k": 1}, "methods": ["joint"], "seeds": [0]},
        "device": "cpu",
    }


def write_project(folder: Path, *changes: Change, **parts: object) -> Path:
    """Write a project, with some sections of the config replaced and some parts of it changed; the config's path."""
    config = {**content(), **parts}
    for change in changes:
        change(config)
    folder.mkdir(exist_ok=True)
    (folder / "chain_project.py").write_text(MODULE)
    path = folder / "recon.yaml"
    # JSON is YAML.
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return path


class Watcher:
    """Writes down which steps are made, and which were made before."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.skipped: list[str] = []

    def begins(self, step: str, what: str) -> None:
        self.made.append(what)

    def skips(self, step: str) -> None:
        self.skipped.append(step)

    def warned(self, message: str) -> None:
        pass

    def profile(self) -> AbstractContextManager[Any]:
        return nullcontext(Nobody())

    training = profile


def run_chain(config: Path, folder: str = "out", **options: Any) -> tuple[set[str], RunReport | None]:
    """Run a project into a folder beside its config: the steps made but for the comparison, and the report."""
    watcher = Watcher()
    report = run(RunRequest(load_config(config), config.parent / folder, **options), watcher)
    assert len(set(watcher.made)) == len(watcher.made)
    return {*watcher.made} - {"compare"}, report


def timeless(document: Any) -> Any:
    """A document without what tells one run from another of the same."""
    if hasattr(document, "to_json"):
        document = document.to_json()
    if isinstance(document, dict):
        return {key: timeless(value) for key, value in document.items() if key not in TIMES}
    return [timeless(value) for value in document] if isinstance(document, list) else document


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def stamps(folder: Path) -> dict[str, int]:
    """When each file of a folder was last written."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }
