"""`train.sharded` under `torchrun`, against one process that holds the whole network."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.artifacts.method import Method
from recon_cli.config.loading import load_config
from recon_cli.errors import ReconError
from recon_cli.experiment.ranks import Ranks
from recon_cli.experiment.sharding import check_can_be_sharded, shard, units_of
from recon_cli.updating.stepper import Stepper
from tests import networks
from tests.ranks import run_on_ranks
from tests.torchrun import finish, torchrun
from tests.training.as_one import SGD, assert_trained_alike, without_norm
from tests.training.by_hand import evaluate
from tests.training.folders import assert_same_results, document, log, parts, tasks, weights

SHARDED = {"epochs": 3, "log_every": 1, "sharded": True}
ALL = {
    "optimizer": {**SGD, "clip_norm": 0.5, "accumulate": 2},
    "scheduler": {"target": "OneCycleLR", "kwargs": {"max_lr": 0.3, "total_steps": 20}, "per": "step"},
    "train": {**SHARDED, "conflicts": {"every": 1}},
}
ADAMW = {"optimizer": {"target": "AdamW", "kwargs": {"lr": 0.01, "weight_decay": 0.1}, "clip_norm": 0.1}}
# The 21 images of the validation data are six batches of four on two ranks, and 43 of the training five of each.
CASES = [
    ("pcgrad", ALL, []),
    pytest.param("joint", ALL, ["--seeds", "0,1"], marks=pytest.mark.slow),
    pytest.param("uncertainty", {}, [], marks=pytest.mark.slow),
    pytest.param("mgda", ADAMW, [], marks=pytest.mark.slow),
    pytest.param("cagrad", {}, [], marks=pytest.mark.slow),
    pytest.param({"name": "gradops", "per": "layer"}, {}, [], marks=pytest.mark.slow),
    pytest.param("gradnorm", {}, [], marks=pytest.mark.slow),
    pytest.param("graddrop", {}, [], marks=pytest.mark.slow),
    pytest.param("famo", {}, [], marks=pytest.mark.slow),
    pytest.param("joint", ADAMW, ["--single-task"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "changes", "options"), CASES)
def test_a_sharded_network_trains_as_a_whole_one(recon, config, tmp_path, method, changes, options):
    given = {"method": method, "train": SHARDED, **changes}
    code, out, err = finish(
        torchrun(tmp_path, 2, "train", without_norm(config, "ranks.yaml", 4, **given), "-o", "ranks", *options)
    )
    assert code == 0, err
    assert out.count("results: ranks/results.json") == 1, out
    recon("train", without_norm(config, "alone.yaml", 8, **given), "-o", "alone", *options).succeeds()
    assert_trained_alike(Path("ranks"), Path("alone"))
    for one, two in zip(*(sorted(Path(name).rglob("training.json")) for name in ("ranks", "alone")), strict=True):
        assert [document(one)[name] for name in ("parameters", "bytes")] == [
            document(two)[name] for name in ("parameters", "bytes")
        ]
        model = networks.without_norm()
        model.load_state_dict(weights(one.parent / "last.safetensors"))
        figures = evaluate(model, networks.TwoTaskData(21), 8, None)
        for task, found in document(one)["last"]["figures"].items():
            assert found == pytest.approx(figures[task], rel=1e-4)


def _in_units(rank: int, size: int, folder: str) -> None:
    ranks, device = Ranks.current(), torch.device("cpu")
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 1))
    shard(model, ranks, device)
    optimizer = torch.optim.AdamW(model.parameters())
    F.mse_loss(model(torch.ones(2, 3)), torch.zeros(2, 1)).backward()
    optimizer.step()
    held = [parameter.to_local() for parameter in model.parameters()]
    moments = [moment.to_local() for state in optimizer.state.values() for moment in state.values() if moment.dim()]
    found = {
        "whole": sum(parameter.numel() for parameter in model.parameters()),
        "held": sum(part.numel() for part in held),
        "stored": sum(part.untyped_storage().nbytes() // part.element_size() for part in held),
        "moments": sum(moment.numel() for moment in moments),
        "sum": float(sum(parameter.full_tensor().double().sum() for parameter in model.parameters())),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_each_rank_holds_its_part_of_the_parameters_and_of_the_optimizer_s_state(tmp_path):
    run_on_ranks(_in_units, 3, tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    whole = found[0]["whole"]
    assert sum(each["held"] for each in found) == whole
    for each in found:
        assert each["held"] <= each["stored"] < 0.37 * whole
        assert each["moments"] == 2 * each["held"]
    # All began with the weights of the first.
    assert len({each["sum"] for each in found}) == 1


def test_the_blocks_that_are_gathered_by_themselves():
    shared = nn.Linear(8, 8)
    model = nn.ModuleDict(
        {
            "blocks": nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(2)), nn.Linear(8, 8)]),
            "tied": nn.ModuleList([shared, nn.Sequential(shared)]),
            "head": nn.Linear(8, 40),
            "small": nn.Sequential(nn.Linear(1, 1)),
        }
    )
    names = {module: name for name, module in model.named_modules()}
    assert [names[unit] for unit in units_of(model)] == ["blocks.0.0", "blocks.1", "blocks.0", "head"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_training_goes_on_to_the_same_bytes(config, tmp_path, number):
    changes = {**ADAMW, "train": {**SHARDED, "epochs": 12, "log_every": 5, "conflicts": {"every": 3}}}
    path = without_norm(config, "long.yaml", 4, method="pcgrad", **changes)
    assert finish(torchrun(tmp_path, 2, "train", path, "-o", "whole"))[0] == 0
    process = torchrun(tmp_path, 2, "train", path, "-o", "out", RECON_TEST_SLOW="0.05")
    while not (tmp_path / "out/seed-0/run").exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code != 0
    assert (tmp_path / "out/seed-0/run/state.pt").exists(), err
    assert 0 < len(log(tmp_path / "out/seed-0")) < len(log(tmp_path / "whole/seed-0"))
    code, _, err = finish(torchrun(tmp_path, 2, "train", path, "-o", "out", "--resume"))
    assert code == 0, err
    assert_same_results(tmp_path / "out", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["", "not "])
def test_an_error_of_one_rank_ends_all(config, tmp_path, mode):
    (tmp_path / "one_fails.py").write_text(
        "import os\nfrom tests.networks import WithoutNorm\n"
        "class Fails(WithoutNorm):\n"
        f"    def forward(self, x):\n        if {mode}self.training and os.environ['RANK'] == '1':\n"
        "            raise ValueError('no such weather')\n"
        "        return super().forward(x)\n"
    )
    path = without_norm(config, "fails.yaml", 4, model={"target": "one_fails:Fails"}, train=SHARDED)
    code, _, err = finish(torchrun(tmp_path, 2, "train", path, "-o", "out"))
    assert code != 0
    assert err.count("error: on rank 1: the model failed: ValueError: no such weather") == 1, err
    assert not list(tmp_path.rglob("training.json"))


@pytest.mark.slow
def test_a_refusal_is_told_once(config, tmp_path):
    path = without_norm(config, "r.yaml", 4, train=SHARDED, tasks=tasks(partial=True))
    code, _, err = finish(torchrun(tmp_path, 2, "train", path, "-o", "out"))
    assert code != 0
    assert err.count("task `left` is `partial`") == 1, err
    assert not (tmp_path / "out").exists()


REFUSED = {
    "a branched network": ({}, True),
    "a network from a file": ({"model": {"torchscript": "net.pt"}}, False),
    "task `left` is `partial`": ({"tasks": tasks(partial=True)}, False),
    "`profile.features`": ({"profile": {"features": ["conv"]}, "train": {"conflicts": {"every": 1}}}, False),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_sharded_is_refused_in_a_sentence(config, what):
    changes, branched = REFUSED[what]
    found = load_config(config(**parts(**changes))).config
    with pytest.raises(ReconError, match=what) as refusal:
        check_can_be_sharded(found, branched=branched)
    assert "train.sharded" in refusal.value.hint


def test_what_works_on_a_whole_network_alone_can_be_sharded(config):
    check_can_be_sharded(load_config(config(**parts(profile={"features": ["conv"]}))).config, branched=False)


@pytest.mark.parametrize(
    "method", [{"name": "cosreg"}, {"name": "rotograd", "feature": "body"}, {"name": "mgda", "feature": "body"}]
)
def test_rules_that_need_more_than_gradients_of_parameters_are_refused(method):
    with pytest.raises(ReconError, match=f"`{method['name']}`.* cannot train a network that is sharded"):
        Stepper(networks.without_norm(), ["left", "right"], Method(**method), sharded=True)


def test_one_process_by_itself_holds_the_whole_network_and_says_so(recon, config):
    result = recon("train", config(**parts(train=SHARDED)), "-o", "sharded", "--seeds", "0,1")
    result.succeeds()
    assert result.err.count("`train.sharded` changes nothing") == 1
    recon("train", config(**parts()), "-o", "plain").succeeds()
    one, two = (weights(Path(folder, "seed-0/last.safetensors")) for folder in ("sharded", "plain"))
    assert all(torch.equal(one[name], two[name]) for name in two)
