"""A training that was stopped and goes on ends in the bytes of one that was not."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import numpy
import pytest
import torch

from recon_cli.runs import keeping
from tests import networks
from tests.stopping import CODES, stop_at_a_random_moment
from tests.training.folders import assert_same_results, document, log, parts, weights

FAR = 10**6
AUGMENTED = {"target": "tests.networks:Augmented", "batch_size": 8}
SGD = {"target": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9}}
STEPS = 5
"""Steps of an epoch; an evaluation has three batches."""

BASE = {
    "model": {"target": "tests.networks:Restless"},
    "data": AUGMENTED,
    "validation": {"target": "tests.networks:Augmented", "kwargs": {"size": 21}},
    "optimizer": SGD,
    "train": {"epochs": 2, "log_every": 2, "conflicts": {"every": 2}},
}


def schedule(target: str, per: str = "epoch", **kwargs: object) -> dict[str, object]:
    return {"scheduler": {"target": target, "kwargs": kwargs, "per": per}}


CASES = {
    "plain": {},
    "workers": {"data": {**AUGMENTED, "workers": 2}, "validation": {**BASE["validation"], "workers": 1}},
    "an iterable": {"data": {"target": "tests.networks:Shuffled"}},
    "a loader": {"data": {"target": "tests.networks:own_loader"}},
    "Adam, accumulated and clipped": {
        "optimizer": {"target": "Adam", "kwargs": {"lr": 0.01}, "clip_norm": 0.1, "accumulate": 3}
    },
    "MultiStepLR": schedule("MultiStepLR", milestones=[1]),
    "OneCycleLR": schedule("OneCycleLR", "step", max_lr=0.1, total_steps=10),
    "ReduceLROnPlateau": schedule("ReduceLROnPlateau", patience=0, threshold=0.9),
    "CyclicLR": schedule("CyclicLR", "step", base_lr=0.01, max_lr=0.1, step_size_up=2),
    "CosineAnnealingWarmRestarts": schedule("CosineAnnealingWarmRestarts", T_0=1),
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "iterations": {"train": {"iterations": 9, "evaluate_every": 4, "log_every": 3, "conflicts": {"samples": 4}}},
    **{name: {"method": name} for name in ("famo", "dwa", "gradnorm", "pcgrad", "graddrop", "rlw")},
    "rotograd": {"method": {"name": "rotograd", "feature": "body"}},
}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(networks.signal_loss, "calls", 0)


def stoppable(number: int = signal.SIGINT, **changes: object) -> dict[str, object]:
    """The parts of a config whose first task's loss sends a signal, once it is asked to."""
    given = parts(**BASE | changes)
    given["tasks"][0]["loss"] = {"target": "tests.networks:signal_loss", "kwargs": {"at": FAR, "number": int(number)}}
    return given


def signal_in(call: int) -> None:
    """Let the loss send its signal in a call, counted from 1."""
    networks.signal_loss.calls = FAR - call


def never() -> None:
    networks.signal_loss.calls = -FAR


def meanwhile() -> None:
    """Let the process do something else that draws random numbers."""
    random.seed(99)
    numpy.random.seed(99)
    torch.manual_seed(99)


def whole(recon, path: Path, *options: object) -> Path:
    never()
    recon("train", path, "-o", "whole", *options).succeeds()
    return Path("whole")


OFTEN = ("plain", "workers", "Adam, accumulated and clipped", "OneCycleLR", "ReduceLROnPlateau", "famo", "rotograd")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in OFTEN else pytest.mark.slow) for case in CASES]
)
def test_an_interrupted_training_goes_on_to_the_same_bytes(recon, config, case):
    path = config(**stoppable(**CASES[case]))
    expected = whole(recon, path)
    # In a step; in a later one, or while it is evaluated.
    for call in (3, 7) if case != "workers" else (7,):
        signal_in(call)
        stopped = recon("train", path, "-o", "out", "--force")
        assert (stopped.code, stopped.out) == (130, "")
        assert "pass --resume to go on from there" in stopped.err
        assert not Path("out/results.json").exists()
        meanwhile()
        never()
        assert "going on after step" in recon("train", path, "-o", "out", "--resume").succeeds().err
        assert_same_results(Path("out"), expected)


OF_ONE = 1 + 2 * (STEPS + 3)
"""The calls of a loss in a training: one that tries it out, and in each epoch those of steps and of an evaluation."""
CALLS = 2 * OF_ONE
# A signal that comes before the first step ends the process as it does by itself.
ON_THE_WAY = [call for call in range(1, CALLS - 2) if call % OF_ONE != 1]
"""Calls of a loss for two seeds of two epochs."""


# The last step of an epoch, its evaluation and the last one of a seed are among them.
@pytest.mark.parametrize("calls", [(6, 9, OF_ONE), pytest.param(ON_THE_WAY, marks=pytest.mark.slow)])
def test_it_may_be_stopped_at_any_step_and_evaluation_and_between_seeds(recon, config, calls):
    path = config(**stoppable(signal.SIGTERM))
    options = ["--seeds", "3,4"]
    expected = whole(recon, path, *options)
    for call in calls:
        never()
        shutil.rmtree("out", ignore_errors=True)
        signal_in(call)
        assert recon("train", path, "-o", "out", *options).code == 143, call
        never()
        resumed = recon("train", path, "-o", "out", "--resume", *options).succeeds()
        assert ("seed 3 was trained before" in resumed.err) == (call > CALLS / 2), call
        assert_same_results(Path("out"), expected)
    # In the very last evaluation nothing is left to stop.
    signal_in(CALLS - 2)
    recon("train", path, "-o", "out", "--force", *options).succeeds()
    assert_same_results(Path("out"), expected)


def test_it_may_be_stopped_many_times(recon, config):
    path = config(**stoppable(method="dwa", **schedule("StepLR", "step", step_size=3)))
    expected = whole(recon, path)
    for _ in range(3):
        signal_in(3)
        assert recon("train", path, "-o", "out", "--resume").code == 130
    never()
    recon("train", path, "-o", "out", "--resume").succeeds()
    assert_same_results(Path("out"), expected)


def test_so_does_a_network_for_every_task(recon, config):
    path = config(**stoppable())
    expected = whole(recon, path, "--single-task")
    for call in (2, OF_ONE):
        signal_in(call)
        assert recon("train", path, "-o", "out", "--single-task", "--force").code == 130
        never()
        recon("train", path, "-o", "out", "--single-task", "--resume").succeeds()
        assert_same_results(Path("out"), expected)
    # The scores are those of several tasks; a network for one has none.
    assert not list(expected.rglob("scores.json"))


def test_what_is_finished_is_not_trained_again(recon, config):
    path = config(**stoppable())
    expected = whole(recon, path, "--seeds", "0,1,2")
    recon("train", path, "-o", "out", "--seeds", "1").succeeds()
    before = Path("out/seed-1/training.json").read_bytes()
    networks.signal_loss.calls = 0
    resumed = recon("train", path, "-o", "out", "--seeds", "0,1,2", "--resume").succeeds()
    assert networks.signal_loss.calls == CALLS
    assert "seed 1 was trained before" in resumed.err
    assert Path("out/seed-1/training.json").read_bytes() == before
    assert_same_results(Path("out"), expected)
    networks.signal_loss.calls = 0
    recon("train", path, "-o", "out", "--seeds", "0,1,2", "--resume").succeeds()
    assert networks.signal_loss.calls == 0
    assert_same_results(Path("out"), expected)


STOPS = [
    pytest.param(number, case, marks=() if (number, case) == (signal.SIGKILL, "plain") else pytest.mark.slow)
    for number in CODES
    for case in ("plain", "workers", "famo")
]


@pytest.mark.parametrize(("number", "case"), STOPS)
def test_a_process_that_is_stopped_at_any_moment_loses_nothing(recon, config, tmp_path, number, case):
    given = parts(**BASE | CASES[case] | {"train": {"epochs": 5, "log_every": 2, "conflicts": {"every": 2}}})
    given["tasks"][0]["loss"] = {"target": "tests.networks:slow_loss", "kwargs": {"seconds": 0.02}}
    path = config(**given)
    options = [path, "--seeds", "0,1"]
    for _ in range(2):
        assert stop_at_a_random_moment(number, tmp_path, "train", *options, "-o", "out", "--resume") == CODES[number]
    recon("train", *options, "-o", "out", "--resume").succeeds()
    recon("train", *options, "-o", "whole").succeeds()
    assert_same_results(Path("out"), Path("whole"))


def test_a_run_folder_that_is_left_when_all_is_written_is_taken_away(recon, config, monkeypatch):
    path = config(**stoppable())
    signal_in(4)
    recon("train", path, "-o", "out")
    left = Path("out/seed-0/run")
    shutil.copytree(left, "kept")
    never()
    recon("train", path, "-o", "out", "--resume").succeeds()
    # As if the process had been killed at that moment.
    shutil.copytree("kept", left)
    Path("out/results.json").unlink()
    recon("train", path, "-o", "out", "--resume").succeeds()
    assert_same_results(Path("out"), whole(recon, path))


def test_a_failure_leaves_the_last_saved_state_to_go_on_from(recon, config, monkeypatch):
    monkeypatch.setattr(keeping, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(keeping, "SAVE_SHARE", 1e9)
    given = parts(**BASE)
    given["tasks"][0]["loss"] = "tests.networks:explode_loss"
    path = config(**given)
    monkeypatch.setattr(networks.explode_loss, "calls", -1)
    failed = recon("train", path, "-o", "out")
    assert (failed.code, failed.err.count("error: ")) == (2, 1)
    assert "as it was last saved" in failed.err
    assert not Path("out/seed-0/training.json").exists()
    monkeypatch.setattr(networks.explode_loss, "calls", -FAR)
    recon("train", path, "-o", "out", "--resume").succeeds()
    recon("train", path, "-o", "whole").succeeds()
    assert_same_results(Path("out"), Path("whole"))


CHANGES = {
    "the config": ({"precision": "bfloat16"}, [], "config: sha256:"),
    "the length": ({}, ["--epochs", 5], "epochs: 2 there, 5 here"),
    "its unit": ({}, ["--iterations", 10], "iterations: None there, 10 here"),
    "the rule": ({}, ["--method", "pcgrad"], "method: "),
    "the start": ({}, ["--checkpoint", "model.safetensors"], "checkpoint: None there, sha256:"),
}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_training_of_another_kind_is_not_gone_on_with(recon, config, change, finished):
    from recon_cli.checkpoints.saving import save_state_dict

    changes, options, words = CHANGES[change]
    save_state_dict(networks.Restless().state_dict(), Path("model.safetensors"))
    path = config(**stoppable())
    never() if finished else signal_in(4)
    recon("train", path, "-o", "out", "--seeds", 0)
    before = contents(Path("out"))
    config(**stoppable(**changes))
    recon("train", path, "-o", "out", "--seeds", 0, "--resume", *options).refuses("is another one: ", words)
    assert contents(Path("out")) == before


def test_a_training_that_began_with_weights_is_not_gone_on_with_without(recon, config):
    from recon_cli.checkpoints.saving import save_state_dict

    save_state_dict(networks.Restless().state_dict(), Path("model.safetensors"))
    never()
    path = config(**stoppable())
    recon("train", path, "-o", "out", "--checkpoint", "model.safetensors").succeeds()
    recon("train", path, "-o", "out", "--resume").refuses("checkpoint: sha256:", "None here")
    named = stoppable(model={**BASE["model"], "checkpoint": "model.safetensors"})
    path = config(**named)
    recon("train", path, "-o", "named").succeeds()
    assert "trained before" in recon("train", path, "-o", "named", "--resume").succeeds().err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_log_that_was_cut_is_not_gone_on_with(recon, config):
    path = config(**stoppable())
    signal_in(6)
    assert recon("train", path, "-o", "out").code == 130
    file = Path("out/seed-0/log.jsonl")
    file.write_bytes(file.read_bytes()[:-1])
    recon("train", path, "-o", "out", "--resume").refuses("out/seed-0/log.jsonl` is shorter", "--force")
    never()
    recon("train", path, "-o", "out", "--force").succeeds()
    assert_same_results(Path("out"), whole(recon, path))


def test_lines_that_were_logged_after_the_last_state_are_written_anew(recon, config):
    path = config(**stoppable())
    signal_in(6)
    assert recon("train", path, "-o", "out").code == 130
    with Path("out/seed-0/log.jsonl").open("a") as file:
        file.write('{"step": 8, "half a li')
    never()
    recon("train", path, "-o", "out", "--resume").succeeds()
    assert_same_results(Path("out"), whole(recon, path))


def test_files_without_a_state_are_not_taken_for_a_training(recon, config):
    never()
    path = config(**stoppable())
    recon("train", path, "-o", "out").succeeds()
    Path("out/seed-0/training.json").unlink()
    recon("train", path, "-o", "out", "--resume").refuses("but no state of a run to go on with", "--force")


@pytest.mark.parametrize("content", [b"", b"junk", {"a": 1}, [1]])
def test_states_that_are_none_are_refused(recon, config, content):
    path = config(**stoppable())
    signal_in(4)
    assert recon("train", path, "-o", "out").code == 130
    state = Path("out/seed-0/run/state.pt")
    if isinstance(content, bytes):
        state.write_bytes(content)
    else:
        torch.save(content, state)
    recon("train", path, "-o", "out", "--resume").refuses("seed-0/run", "--force")


def test_resume_without_a_run_starts_one(recon, config):
    path = config(**stoppable())
    never()
    recon("train", path, "-o", "out", "--resume").succeeds()
    assert_same_results(Path("out"), whole(recon, path))
    assert log(Path("out/seed-0"))
    assert weights(Path("out/seed-0/last.safetensors"))
    assert document(Path("out/seed-0/training.json"))["steps"] == 2 * STEPS
