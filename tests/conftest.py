"""What the tests share: running the command in this process, and small files to run it on."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Z_LEVELS, HalvedIterations, ScoredLayer, Scores
from recon_cli.artifacts.versions import Versions
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.cli.app import main
from recon_cli.profiling.tally import ConflictTally
from tests import networks

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell that runs the tests in its background ignores Ctrl-C for them, and so for every command that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

AUTHORS_RANKING = Path(__file__).parent / "data" / "recon_authors_resnet18_S-0.1.json"


@dataclass(frozen=True)
class Result:
    """How a run of the command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output, which has to be one JSON document."""
        return json.loads(self.out)

    def refuses(self, *words: str) -> Result:
        """Check that this is a clear refusal: exit code 2, one error, no traceback, and these words in it."""
        assert self.code == 2, self
        assert self.err.count("error: ") == 1, self.err
        assert "Traceback" not in self.err
        assert "unexpectedly" not in self.err, self.err
        assert self.out == "", self.out
        for word in words:
            assert word in self.err, self.err
        return self

    def succeeds(self) -> Result:
        """Check that the run did what it was asked to."""
        assert self.code == 0, self.err
        return self


@pytest.fixture
def recon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `recon` in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests run side by side, so each takes one thread, and so do fixtures that several tests have."""
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write a config of the small two-task network of these tests, with some parts replaced."""

    def write(name: str = "recon.yaml", **parts: object) -> Path:
        content: dict[str, object] = {
            "model": {"target": "tests.networks:two_tasks"},
            "tasks": [
                {"name": "left", "loss": "cross_entropy", "label": "left"},
                {"name": "right", "loss": "cross_entropy", "label": "right"},
            ],
            "data": {"target": "tests.networks:two_task_data", "batch_size": 8},
            "optimizer": {"target": "SGD", "kwargs": {"lr": 0.05}},
            "profile": {"iterations": 6},
            "device": "cpu",
        }
        content.update(parts)
        path = tmp_path / name
        # JSON is YAML.
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return path

    return write


@pytest.fixture
def scores(recon: Callable[..., Result], config: Callable[..., Path]) -> Path:
    """A scores file of the small network."""
    recon("profile", config(), "-o", "scores.json", "-q").succeeds()
    return Path("scores.json").resolve()


@pytest.fixture
def ranking(recon: Callable[..., Result], scores: Path) -> Path:
    """A ranking of the small network, by conflicts of any severity."""
    recon("rank", scores, "-S", "0", "-o", "ranking.json", "-q").succeeds()
    return Path("ranking.json").resolve()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the small network."""
    torch.manual_seed(3)
    path = tmp_path / "model.safetensors"
    save_state_dict(networks.two_tasks().state_dict(), path)
    return path


def scores_of(
    tallies: Mapping[str, ConflictTally],
    measured: Sequence[int],
    severities: Sequence[float],
    halves: HalvedIterations | None = None,
) -> Scores:
    """Scores of layers of which these tallies were kept; the trunk is the first of them.

    :param measured: the iterations measured in each stage.
    :param halves: those in which halves of batches were, if any.
    """
    first = next(iter(tallies.values()))
    names = [*"abcdefgh", *(f"task{place}" for place in range(9, 41))]
    tasks = tuple(names[: len(first.task_iterations())])
    layers = tuple(
        ScoredLayer(
            name=name,
            type="Linear",
            aliases=(),
            parameters=(f"{name}.weight",),
            size=10,
            bytes=40,
            tasks=tasks,
            stages=tally.layer_stages(0),
            series=tally.layer_series(0),
            between=tally.between(0),
        )
        for name, tally in tallies.items()
    )
    return Scores(
        tasks=tasks, complete=True, steps=sum(measured), steps_requested=sum(measured),
        iterations=sum(measured), iterations_requested=sum(measured),
        stage_iterations=tuple(measured), windows=first.windows(),
        z_levels=Z_LEVELS, task_iterations=first.task_iterations(),
        pair_iterations=first.pair_iterations(), halves=halves, method="joint", seed=0, device="cpu", batch_restarts=0,
        severities=tuple(severities), config_digest=None, checkpoint_digest=None,
        versions=Versions(recon="0", torch="2"), trunk=first.layer_stages(0),
        trunk_series=first.layer_series(0), trunk_between=first.between(0), layers=layers, unranked=(),
    )  # fmt: skip


def without_series(content: dict[str, Any]) -> None:
    """Take out of the content of a scores document what earlier versions did not count."""
    for part in content["layers"]:
        del part["series"], part["between"]
    for name in ("windows", "trunk_series", "trunk_between"):
        content.pop(name, None)


def read_scores(path: Path) -> Scores:
    """Read a scores file."""
    return Scores.read(path)


def layer_sizes(model: nn.Module) -> dict[str, int]:
    """The parameters of every layer of a network without ties."""
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        layer = name.rpartition(".")[0]
        sizes[layer] = sizes.get(layer, 0) + parameter.numel()
    return sizes


def read_ranking(path: Path) -> Ranking:
    """Read a ranking."""
    return Ranking.read(path)
