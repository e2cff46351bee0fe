"""A run that is stopped and started again ends as one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import networks
from tests.chain.chains import run_chain, timeless, write_project

KILLED = """\
import os, signal
from pathlib import Path
from torch.nn.functional import cross_entropy

countdown = Path(__file__).with_name("countdown")


def loss(output, target):
    if countdown.exists():
        left = int(countdown.read_text()) - 1
        countdown.write_text(str(left))
        if left == 0:
            countdown.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return cross_entropy(output, target)
"""


@pytest.fixture(autouse=True)
def _from_the_first_call(monkeypatch):
    monkeypatch.setattr(networks.signal_loss, "calls", 0)


def signalling(at: int = 10**9, number: int = signal.SIGINT, seeds: tuple[int, ...] = (0,)):
    """Let the first task's loss send a signal at one of its calls."""

    def change(config):
        arguments = {"at": at, "number": int(number)}
        config["tasks"][0]["loss"] = {"target": "tests.networks:signal_loss", "kwargs": arguments}
        config["run"]["seeds"] = [*seeds]

    return change


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of a run that nothing interrupted."""
    _, report = run_chain(write_project(tmp_path_factory.mktemp("whole"), signalling()))
    return timeless(report)


STOPPED = {
    "the profile": (2, signal.SIGINT, "profile"),
    "the profile's last step": (4, signal.SIGTERM, "profile"),
    "a training": (6, signal.SIGTERM, "train joint, seed 0"),
    "a training's last evaluation": (8, signal.SIGINT, "train joint, seed 0"),
    "a branched one": (13, signal.SIGINT, "train joint-recon, seed 0"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_an_interrupted_run_goes_on_to_the_same_report(recon, tmp_path, whole, name):
    at, number, step = STOPPED[name]
    config = write_project(tmp_path / "project", signalling(at, number))
    stopped = recon("run", config, "-o", "out")
    assert (stopped.code, stopped.out) == (128 + number, "")
    assert [line for line in stopped.err.splitlines() if line.startswith("note: ")][-1] == f"note: {step}"
    assert "give the same command again to go on from there" in stopped.err
    assert "--resume" not in stopped.err
    assert not Path("out/report.json").exists()
    # A comment makes it no other run.
    config.write_text("# once more\n" + config.read_text())
    resumed = recon("run", config, "-o", "out", "--json").succeeds()
    assert "going on after step" in resumed.err
    assert timeless(resumed.document) == whole
    assert not list(Path("out").rglob("state.pt"))


def test_what_was_trained_before_an_interrupt_is_not_trained_again(recon, tmp_path):
    config = write_project(tmp_path / "project", signalling(20, seeds=(0, 1)))
    stopped = recon("run", config, "-o", "project/out")
    assert stopped.code == 130
    assert "note: train joint-recon, seed 0" in stopped.err
    networks.signal_loss.calls = 10**6
    steps, _ = run_chain(config)
    assert "train joint-recon, seed 0" in steps
    assert not steps & {"profile", "rank", "network", "split recon", "train joint, seed 0", "train joint, seed 1"}


def test_what_is_changed_meanwhile_is_begun_anew(recon, tmp_path):
    config = write_project(tmp_path / "project", signalling(6))
    assert recon("run", config, "-o", "project/out").code == 130
    assert list(Path("project/out/joint").rglob("state.pt"))
    longer = {"iterations": 5, "conflicts": {"every": 1}}
    config = write_project(tmp_path / "project", signalling(6), train=longer)
    networks.signal_loss.calls = 10**6
    steps, report = run_chain(config)
    assert "train joint, seed 0" in steps
    assert "profile" not in steps
    _, anew = run_chain(config, "anew")
    assert timeless(report) == timeless(anew)


def test_a_killed_run_goes_on_to_the_same_report(tmp_path):
    config = write_project(tmp_path, lambda content: content["tasks"][0].update(loss={"target": "chain_killed:loss"}))
    (tmp_path / "chain_killed.py").write_text(KILLED)
    (tmp_path / "countdown").write_text("12")
    killed = subprocess.run(
        [sys.executable, "-m", "recon_cli", "run", config, "-o", "out"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert "note: train joint, seed 0" in killed.stderr
    steps, report = run_chain(config)
    assert {"profile", "rank"}.isdisjoint(steps)
    assert "train joint-recon, seed 0" in steps
    _, anew = run_chain(config, "anew")
    assert timeless(report) == timeless(anew)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name in ("run", "scores.run", "state.pt")]
