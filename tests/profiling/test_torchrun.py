"""`recon profile` under `torchrun`, against one process with the ranks' batches put together."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.conftest import read_scores
from tests.torchrun import finish, torchrun


def without_norm(config, name: str, batch_size: int, **profile: object) -> Path:
    """A config whose network has no statistics of its rank's batch alone."""
    return config(
        name,
        model={"target": "tests.networks:without_norm"},
        data={"target": "tests.networks:two_task_data", "batch_size": batch_size, "kwargs": {"size": 43}},
        profile={"iterations": 9, **profile},
    )


CASES = [
    (2, 2, "joint"),
    *[pytest.param(2, 1, "joint", marks=pytest.mark.slow), pytest.param(3, 2, "joint", marks=pytest.mark.slow)],
    # A rule for each way from the losses to an update.
    *[pytest.param(2, 2, rule, marks=pytest.mark.slow) for rule in ("famo", "gradnorm", "mgda", "graddrop", "cosreg")],
]


@pytest.mark.parametrize(("size", "every", "method"), CASES)
def test_ranks_write_what_one_process_with_their_batches_together_writes(recon, config, tmp_path, size, every, method):
    path = without_norm(config, "ranks.yaml", 4, every=every)
    code, out, err = finish(torchrun(tmp_path, size, "profile", path, "-o", "r.json", "--method", method))
    assert code == 0, err
    assert out.count("layers shared by") == 1, out
    path = without_norm(config, "alone.yaml", 4 * size, every=every)
    recon("profile", path, "-o", "a.json", "--method", method).succeeds()
    ranks, alone = read_scores(Path("r.json")), read_scores(Path("a.json"))
    assert ranks.batch_restarts == alone.batch_restarts > 0
    assert ranks.iterations == alone.iterations
    for mine, theirs in zip(ranks.layers, alone.layers, strict=True):
        assert mine.name == theirs.name
        for one, two in zip(mine.stages, theirs.stages, strict=True):
            assert one.pairs == two.pairs
            assert one.gds == pytest.approx(two.gds, abs=1e-4)
            assert one.norms == pytest.approx(two.norms, rel=1e-4)
    assert not list(tmp_path.glob("*.run"))


def test_an_error_of_one_rank_ends_all_with_that_error(config, tmp_path):
    (tmp_path / "one_fails.py").write_text(
        "import os, torch\nfrom tests.networks import TwoTasks\n"
        "class Fails(TwoTasks):\n"
        "    def forward(self, x):\n"
        "        if os.environ['RANK'] == '1': raise ValueError('no such weather')\n"
        "        return super().forward(x)\n"
    )
    code, _, err = finish(torchrun(tmp_path, 2, "profile", config(model={"target": "one_fails:Fails"}), "-o", "s.json"))
    assert code != 0
    assert err.count("error: on rank 1: the model failed: ValueError: no such weather") == 1, err
    assert not (tmp_path / "s.json").exists()


def test_a_rank_that_cannot_begin_leaves_no_folder_behind(config, tmp_path):
    (tmp_path / "one_begins.py").write_text(
        "import os\nfrom tests.networks import TwoTasks\n"
        "def make():\n"
        "    if os.environ['RANK'] == '1': raise ValueError('no such weights')\n"
        "    return TwoTasks()\n"
    )
    code, _, err = finish(torchrun(tmp_path, 2, "profile", config(model={"target": "one_begins:make"}), "-o", "s.json"))
    assert code != 0
    assert err.count("error: on rank 1:") == 1, err
    assert not (tmp_path / "s.run").exists()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bytes(config, tmp_path):
    path = without_norm(config, "long.yaml", 4)
    assert finish(torchrun(tmp_path, 2, "profile", path, "-o", "whole.json", "--iterations", 300))[0] == 0
    process = torchrun(tmp_path, 2, "profile", path, "-o", "halves.json", "--iterations", 300, RECON_TEST_SLOW="0.05")
    while not (tmp_path / "halves.run").exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code != 0
    assert (tmp_path / "halves.run" / "state.pt").exists(), err
    code, _, err = finish(torchrun(tmp_path, 2, "profile", path, "-o", "halves.json", "--iterations", 300, "--resume"))
    assert code == 0, err
    assert (tmp_path / "halves.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
