"""A profile that was stopped and goes on ends in the bytes of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recon_cli.runs import keeping
from tests import networks
from tests.conftest import read_scores
from tests.experiment.programs import WRITERS, write
from tests.stopping import CODES, ENVIRONMENT, stop_at_a_random_moment

DATA = {
    "a data set": {"target": "tests.networks:Augmented", "batch_size": 8},
    "a data set with workers": {"target": "tests.networks:Augmented", "batch_size": 8, "workers": 2},
    "a data set in order": {"target": "tests.networks:two_task_data", "batch_size": 8, "shuffle": False},
    "an iterable": {"target": "tests.networks:Shuffled"},
    "a loader": {"target": "tests.networks:own_loader"},
}
OPTIMIZERS = {
    "Adam": {"target": "Adam", "kwargs": {"lr": 0.01}},
    "momentum": {"target": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9}},
}
STEPS = 24


@pytest.fixture(autouse=True)
def _from_the_first_call(monkeypatch):
    monkeypatch.setattr(networks.signal_loss, "calls", 0)


def parts(data="a data set", optimizer="Adam", *, at=10**9, number=signal.SIGINT, loss=None, **profile):
    """The parts of a config; the loss of the first task sends a signal in step `at`, counted from 1."""
    loss = loss or {"target": "tests.networks:signal_loss", "kwargs": {"at": at, "number": int(number)}}
    return {
        "model": {"target": "tests.networks:Restless"},
        "tasks": [
            {"name": "left", "loss": loss, "label": "left"},
            {"name": "right", "loss": "cross_entropy", "label": "right"},
        ],
        "data": DATA[data],
        "optimizer": OPTIMIZERS[optimizer],
        "profile": {"iterations": STEPS, **profile},
    }


def uninterrupted(recon, path, *options) -> bytes:
    """The scores of the same config, run in one go: the signal is passed over."""
    before = networks.signal_loss.calls
    networks.signal_loss.calls = 10**6
    recon("profile", path, "-o", "whole.json", "--force", *options).succeeds()
    networks.signal_loss.calls = before
    return Path("whole.json").read_bytes()


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("at", [1, 5, 6, 13])
def test_an_interrupted_profile_goes_on_to_the_same_bytes(recon, config, data, at):
    path = config(**parts(data, at=at))
    stopped = recon("profile", path, "-o", "s.json")
    assert (stopped.code, stopped.out) == (130, "")
    assert f"as it was after step {at}" in stopped.err
    assert "error: interrupted" in stopped.err
    assert not Path("s.json").exists()
    # Whatever the process did meanwhile.
    random.seed(99)
    torch.manual_seed(99)
    resumed = recon("profile", path, "-o", "s.json", "--resume").succeeds()
    assert f"going on after step {at} of {STEPS}" in resumed.err
    assert Path("s.json").read_bytes() == uninterrupted(recon, path)
    assert not Path("s.run").exists()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("options", [["--every", 3], ["--samples", 7]])
def test_so_does_one_that_measures_some_steps_only(recon, config, optimizer, options):
    path = config(**parts(optimizer=optimizer, at=11))
    assert recon("profile", path, "-o", "s.json", *options).code == 130
    recon("profile", path, "-o", "s.json", "--resume", *options).succeeds()
    assert Path("s.json").read_bytes() == uninterrupted(recon, path, *options)


@pytest.mark.parametrize("how", WRITERS)
def test_so_does_one_of_a_network_from_a_file(recon, config, how, tmp_path):
    given = parts("a data set in order", at=7)
    given["model"] = write(how, networks.TwoTasks(), (torch.rand(8, 1, 5, 5),), tmp_path)
    path = config(**given)
    assert recon("profile", path, "-o", "s.json", "--allow-torchscript").code == 130
    recon("profile", path, "-o", "s.json", "--resume", "--allow-torchscript").succeeds()
    assert Path("s.json").read_bytes() == uninterrupted(recon, path, "--allow-torchscript")


def test_sigterm_ends_with_its_own_code(recon, config):
    path = config(**parts(at=4, number=signal.SIGTERM))
    stopped = recon("profile", path, "-o", "s.json")
    assert stopped.code == 143
    assert "error: terminated" in stopped.err
    assert read_scores(Path("s.run/partial.json")).steps == 4
    recon("profile", path, "-o", "s.json", "--resume").succeeds()
    assert Path("s.json").read_bytes() == uninterrupted(recon, path)


def test_a_run_may_be_stopped_many_times(recon, config):
    path = config(**parts(at=3))
    for _ in range(STEPS // 3 - 1):
        networks.signal_loss.calls = 0
        assert recon("profile", path, "-o", "s.json", "--resume").code == 130
    networks.signal_loss.calls = 0
    # The signal comes in the last step, after which nothing is left to do.
    recon("profile", path, "-o", "s.json", "--resume").succeeds()
    assert Path("s.json").read_bytes() == uninterrupted(recon, path)


STOPS = [
    pytest.param(number, data, marks=() if data == "a data set" else pytest.mark.slow)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    for data in ("a data set", "a data set with workers", "an iterable")
]


@pytest.mark.parametrize(("number", "data"), STOPS)
def test_a_process_that_is_stopped_at_any_moment_loses_nothing(recon, config, tmp_path, number, data):
    path = config(**parts(data, loss="tests.networks:slow_loss", iterations=300))
    for _ in range(2):
        assert stop_at_a_random_moment(number, tmp_path, "profile", path, "-o", "s.json", "--resume") == CODES[number]
    recon("profile", path, "-o", "s.json", "--resume").succeeds()
    assert Path("s.json").read_bytes() == uninterrupted(recon, path)
    assert not list(tmp_path.glob("s.run*"))


def test_a_step_that_the_signal_itself_breaks_counts_for_nothing(recon, config, monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text(
        "import os, signal\nfrom torch.nn import functional as F\n"
        "calls = 0\n"
        "def loss(output, target):\n"
        "    global calls\n    calls += 1\n"
        "    if calls == 7:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        raise RuntimeError('a worker was killed')\n"
        "    return F.cross_entropy(output, target)\n"
    )
    path = config(**parts(loss="broken:loss"))
    assert recon("profile", path, "-o", "s.json").code == 143
    assert read_scores(Path("s.partial.json")).steps == 6
    assert not Path("s.run").exists()
    import broken

    broken.calls = 0
    monkeypatch.setattr(keeping, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(keeping, "SAVE_SHARE", 1e9)
    stopped = recon("profile", path, "-o", "s.json")
    assert stopped.code == 143
    assert "as it was last saved" in stopped.err
    assert torch.load("s.run/state.pt", weights_only=True)["training"]["step"] == 6
    recon("profile", path, "-o", "s.json", "--resume").succeeds()
    assert Path("s.json").read_bytes() == uninterrupted(recon, path)


def test_a_second_signal_ends_at_once(config, tmp_path):
    (tmp_path / "stuck.py").write_text(
        "import time\nfrom torch.nn import functional as F\n"
        "def loss(output, target):\n"
        "    print('here', flush=True)\n    time.sleep(1000)\n"
    )
    path = config(**parts(loss="stuck:loss"))
    environment = os.environ | ENVIRONMENT
    command = [sys.executable, "-m", "recon_cli", "profile", str(path), "-o", "s.json"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert not (tmp_path / "s.run").exists()


def test_an_unfinished_run_is_not_dropped_unasked(recon, config):
    path = config(**parts(at=4))
    assert recon("profile", path, "-o", "s.json").code == 130
    before = Path("s.run/state.pt").read_bytes()
    recon("profile", path, "-o", "s.json").refuses("holds a run that was not finished", "--resume", "--force")
    assert Path("s.run/state.pt").read_bytes() == before
    recon("profile", path, "-o", "s.json", "--force").succeeds()
    assert Path("s.json").read_bytes() == uninterrupted(recon, path)
    assert not Path("s.run").exists()


def test_what_was_measured_before_a_stop_can_be_ranked(recon, config):
    path = config(**parts(at=4))
    assert "partial" not in recon("profile", path, "-o", "s.json").out
    partial = read_scores(Path("s.run/partial.json"))
    assert (partial.complete, partial.steps, partial.steps_requested, partial.iterations) == (False, 4, STEPS, 4)
    recon("rank", "s.run/partial.json", "-S", "0").succeeds()


def test_resume_without_a_run_starts_one(recon, config):
    path = config(**parts())
    result = recon("profile", path, "-o", "s.json", "--resume").succeeds()
    assert "note: there is no run in" in result.err
    assert Path("s.json").read_bytes() == uninterrupted(recon, path)


def test_a_run_that_saved_nothing_starts_anew(recon, config):
    Path("s.run").mkdir()
    result = recon("profile", config(**parts()), "-o", "s.json", "--resume").succeeds()
    assert "saved nothing yet" in result.err
    assert not Path("s.run").exists()


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, ["--seed", 5], ["seed: 0 there, 5 here"]),
        ({}, ["--iterations", 30], ["iterations: 24 there, 30 here"]),
        ({}, ["--every", 2], ["samples: 1500 there, None here", "every: None there, 2 here"]),
        ({}, ["--checkpoint", "model.safetensors"], ["checkpoint: None there, sha256:"]),
        ({"seed": 7}, [], ["config: sha256:", "seed: 0 there, 7 here"]),
    ],
)
def test_a_run_of_another_kind_is_not_gone_on_with(recon, config, changes, options, words):
    from recon_cli.checkpoints.saving import save_state_dict

    save_state_dict(networks.Restless().state_dict(), Path("model.safetensors"))
    assert recon("profile", config(**parts(at=4)), "-o", "s.json").code == 130
    before = Path("s.run/state.pt").read_bytes()
    result = recon("profile", config(**parts(at=4), **changes), "-o", "s.json", "--resume", *options)
    result.refuses("is another one: ", *words)
    assert Path("s.run/state.pt").read_bytes() == before
    assert not Path("s.json").exists()


def test_a_state_of_another_version_of_torch_or_task_list_is_refused(recon, config):
    path = config(**parts(at=4))
    assert recon("profile", path, "-o", "s.json").code == 130
    state = torch.load("s.run/state.pt", weights_only=True)
    for name, value in (("torch", "1.0"), ("tasks", ["left", "up"]), ("recon", "9"), ("device", "cuda")):
        torch.save({**state, "run": {**state["run"], name: value}}, "s.run/state.pt")
        recon("profile", path, "-o", "s.json", "--resume").refuses(f"is another one: {name}: ")
    changed = {**state["training"], "parameters": {**state["training"]["parameters"], "conv.bias": torch.zeros(5)}}
    torch.save({**state, "training": changed}, "s.run/state.pt")
    recon("profile", path, "-o", "s.json", "--resume").refuses("the network is not that", "`conv.bias`")


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


@pytest.mark.parametrize("content", [b"", b"junk", "evil", {"a": 1}, [1]])
def test_states_that_are_none_are_refused(recon, config, content):
    Path("s.run").mkdir()
    if isinstance(content, bytes):
        Path("s.run/state.pt").write_bytes(content)
    else:
        torch.save(Evil() if content == "evil" else content, "s.run/state.pt")
    recon("profile", config(**parts()), "-o", "s.json", "--resume").refuses("s.run", "--force")
    assert not Path("evil").exists()
    recon("profile", config(**parts()), "-o", "s.json", "--force").succeeds()


def test_a_folder_with_other_things_is_left_alone(recon, config):
    Path("s.run").mkdir()
    Path("s.run/mine").write_text("mine")
    recon("profile", config(**parts()), "-o", "s.json").refuses("--force")
    recon("profile", config(**parts()), "-o", "s.json", "--force").refuses("cannot remove the folder")
    assert Path("s.run/mine").read_text() == "mine"


def test_standard_output_cannot_be_resumed(recon, config):
    recon("profile", config(**parts()), "-o", "-", "--resume").refuses("standard output cannot be resumed")
    stopped = recon("profile", config(**parts(at=4)), "-o", "-")
    assert (stopped.code, stopped.out) == (130, "")
    assert read_scores(Path("scores.partial.json")).steps == 4


def test_a_run_that_fails_keeps_its_scores_as_before(recon, config, monkeypatch, tmp_path):
    monkeypatch.setattr(keeping, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(networks.explode_loss, "calls", 0)
    path = config(**parts(loss="tests.networks:explode_loss"))
    recon("profile", path, "-o", "s.json").refuses("became inf", "s.partial.json")
    assert read_scores(Path("s.partial.json")).iterations == 2


class Odd(torch.optim.SGD):
    """An optimizer whose state is more than plain data."""

    def state_dict(self):
        return {**super().state_dict(), "odd": Evil()}


def test_a_run_that_cannot_be_saved_runs_all_the_same(recon, config, monkeypatch):
    monkeypatch.setattr(keeping, "SAVE_SECONDS", 0.0)
    given = parts(at=4)
    given["optimizer"] = {"target": "tests.profiling.test_resume:Odd", "kwargs": {"lr": 0.1}}
    path = config(**given)
    stopped = recon("profile", path, "-o", "s.json")
    assert stopped.code == 130
    assert stopped.err.count("warning: the run cannot be saved") == 1
    assert read_scores(Path("s.partial.json")).steps == 4
    assert not Path("s.run").exists()
    Path("s.partial.json").unlink()
    recon("profile", path, "-o", "s.json").succeeds()
