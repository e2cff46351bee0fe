"""`recon train` under `torchrun`, against one process with the ranks' batches put together."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.torchrun import finish, torchrun
from tests.training.as_one import SGD, assert_trained_alike, without_norm
from tests.training.folders import assert_same_results

SCHEDULE = {"target": "OneCycleLR", "kwargs": {"max_lr": 0.3, "total_steps": 20}, "per": "step"}
ALL = {
    "optimizer": {**SGD, "clip_norm": 0.5, "accumulate": 2},
    "scheduler": SCHEDULE,
    "train": {"epochs": 3, "log_every": 1, "conflicts": {"every": 1}},
}
PLATEAU = {
    "optimizer": SGD,
    "scheduler": {"target": "ReduceLROnPlateau", "kwargs": {"patience": 0, "threshold": 0.5}},
}


CASES = [
    ("pcgrad", ALL, ["--seeds", "0,1"]),
    pytest.param("joint", ALL, [], marks=pytest.mark.slow),
    pytest.param("joint", PLATEAU, [], marks=pytest.mark.slow),
    pytest.param("dwa", {**PLATEAU, "validation": None}, [], marks=pytest.mark.slow),
    pytest.param("famo", {}, [], marks=pytest.mark.slow),
    pytest.param("joint", {}, ["--single-task"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "changes", "options"), CASES)
def test_ranks_train_as_one_process_with_their_batches_together(recon, config, tmp_path, method, changes, options):
    path = without_norm(config, "ranks.yaml", 4, method=method, **changes)
    code, out, err = finish(torchrun(tmp_path, 2, "train", path, "-o", "ranks", *options))
    assert code == 0, err
    assert out.count("results: ranks/results.json") == 1, out
    path = without_norm(config, "alone.yaml", 8, method=method, **changes)
    recon("train", path, "-o", "alone", *options).succeeds()
    assert_trained_alike(Path("ranks"), Path("alone"))


FAULTS = {
    "in a step": "def forward(self, x):\n        if self.training and os.environ['RANK'] == '1': ",
    "in an evaluation": "def forward(self, x):\n        if not self.training and os.environ['RANK'] == '1': ",
}


@pytest.mark.slow
@pytest.mark.parametrize("when", FAULTS)
def test_an_error_of_one_rank_ends_all_with_that_error(config, tmp_path, when):
    (tmp_path / "one_fails.py").write_text(
        "import os\nfrom tests.networks import WithoutNorm\n"
        "class Fails(WithoutNorm):\n"
        f"    {FAULTS[when]}raise ValueError('no such weather')\n"
        "        return super().forward(x)\n"
    )
    path = without_norm(config, "fails.yaml", 4, model={"target": "one_fails:Fails"})
    code, _, err = finish(torchrun(tmp_path, 2, "train", path, "-o", "out"))
    assert code != 0
    assert err.count("error: on rank 1: the model failed: ValueError: no such weather") == 1, err
    assert not list(tmp_path.rglob("training.json"))


@pytest.mark.slow
def test_a_refusal_of_the_first_rank_ends_all(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    code, _, err = finish(torchrun(tmp_path, 2, "train", without_norm(config, "r.yaml", 4), "-o", "out"))
    assert code != 0
    assert err.count("is not empty") == 1, err
    path = without_norm(config, "r.yaml", 4, train={"best": "nothing"})
    code, _, err = finish(torchrun(tmp_path, 2, "train", path, "-o", "fresh"))
    assert code != 0
    assert err.count("`train.best` names `nothing`") == 1, err
    assert not (tmp_path / "fresh").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_training_goes_on_to_the_same_bytes(config, tmp_path, number):
    changes = ALL | {"scheduler": None, "train": {"epochs": 12, "log_every": 5, "conflicts": {"every": 3}}}
    path = without_norm(config, "long.yaml", 4, method="pcgrad", **changes)
    options = ["--seeds", "0,1"]
    assert finish(torchrun(tmp_path, 2, "train", path, "-o", "whole", *options))[0] == 0
    process = torchrun(tmp_path, 2, "train", path, "-o", "out", *options, RECON_TEST_SLOW="0.05")
    while not (tmp_path / "out/seed-0/run").exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code != 0
    assert (tmp_path / "out/seed-0/run/state.pt").exists(), err
    code, _, err = finish(torchrun(tmp_path, 2, "train", path, "-o", "out", *options, "--resume"))
    assert code == 0, err
    assert_same_results(tmp_path / "out", tmp_path / "whole")
