"""What `recon run` splits: checkpoints of the config, rankings without conflicts, and selections that find nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.chain.chains import read, run_chain, stamps, write_project
from tests.networks import TwoTasks


@pytest.mark.parametrize("name", ["start.safetensors", "start.pt", "absolute"])
def test_the_checkpoint_of_the_config_is_split_as_recon_split_does(recon, tmp_path, name):
    torch.manual_seed(5)
    project = tmp_path / "project"
    project.mkdir()
    path = project / ("start.pt" if name == "absolute" else name)
    torch.save(TwoTasks().state_dict(), path) if path.suffix == ".pt" else save_file(TwoTasks().state_dict(), path)
    model = {"target": "chain_project:network", "checkpoint": str(path) if name == "absolute" else name}
    config = write_project(project, model=model)
    recon("run", config, "-o", "out", "-q").succeeds()
    split = ["split", path, "--ranking", "out/ranking.json", "--top-k", 1, "-o", "typed.safetensors"]
    recon(*split).succeeds()
    assert Path("typed.safetensors").read_bytes() == Path("out/splits/recon.safetensors").read_bytes()
    # The trainings begin with these weights, too.
    first = {**read(config), "train": {"iterations": 1}, "optimizer": {"target": "SGD", "kwargs": {"lr": 0.0}}}
    frozen = write_project(project, **first)
    recon("run", frozen, "-o", "out", "--from", "train", "-q").succeeds()
    trained, start = load_file("out/joint-recon/seed-0/last.safetensors"), load_file("typed.safetensors")
    weights = [key for key in start if key.endswith(("weight", "bias"))]
    assert weights
    assert all(torch.equal(trained[key], start[key]) for key in weights)


def test_a_shard_of_the_checkpoint_that_changes_redoes_what_came_of_it(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    state = TwoTasks().state_dict()
    parts = {"1.safetensors": list(state)[:5], "2.safetensors": list(state)[5:]}
    for name, keys in parts.items():
        save_file({key: state[key] for key in keys}, project / name)
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (project / "m.safetensors.index.json").write_text(json.dumps(index))
    model = {"target": "chain_project:network", "checkpoint": "m.safetensors.index.json"}
    config = write_project(project, model=model)
    assert run_chain(config, last="split")[0] == {"profile", "rank", "split recon"}
    assert run_chain(config, last="split")[0] == set()
    save_file({key: state[key] + 1 for key in parts["2.safetensors"]}, project / "2.safetensors")
    assert {"profile", "split recon"} <= run_chain(config, last="split")[0]


NOTHING = {
    "a budget": ({"budget": "5%"}, ["no layer has conflicts"]),
    "a score": ({"min_score": 1}, ["no layer has a score of 1 or more; the highest is 0"]),
    "too many": ({"top_k": 25}, ["--top-k 25 is out of range: the ranking holds 4 layers"]),
    "the most": ({"max_params": "5%"}, ["no layer has conflicts"]),
    "a cost": ({"top_k": 4, "max_cost": "1.01"}, ["1.01"]),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_selection_that_finds_nothing_is_one_sentence_and_costs_nothing(recon, tmp_path, name):
    select, words = NOTHING[name]
    section = {"severity": -0.95, "select": select}
    config = write_project(tmp_path / "project", run=section)
    out = tmp_path / "project" / "out"
    recon("run", config, "-o", out).refuses("split recon: ", *words, "`run.select` in the config")
    before = stamps(out)
    assert {"scores.json", "ranking.json", "network.safetensors", "ledger.json"} == set(before)
    assert {layer["score"] for layer in read(out / "ranking.json")["layers"]} == {0}
    steps, report = run_chain(write_project(tmp_path / "project", run={**section, "select": {"top_k": 1}}))
    assert not steps & {"profile", "rank", "network"}
    assert len(report.split.layers) == 1
    assert {**stamps(out), "ledger.json": 0}.items() >= {**before, "ledger.json": 0}.items()


@pytest.mark.parametrize("select", [{"budget": "50%"}, {"max_params": "50%", "max_cost": "1.9", "max_groups": 2}])
def test_a_budget_is_kept_to(tmp_path, select):
    config = write_project(tmp_path / "project", run={"severity": 0.0, "select": select})
    _, report = run_chain(config)
    assert 1 < report.split.parameters_after / report.split.parameters_before <= 1.5


def test_conflicts_cannot_be_measured_where_nothing_is_shared(recon, tmp_path):
    section = {"severity": 0.0, "select": {"top_k": 4}}
    config = write_project(tmp_path / "project", run=section)
    out = tmp_path / "project" / "out"
    recon("run", config, "-o", out).refuses("split recon: no layer is left that tasks share", "`train.conflicts`")
    assert not (out / "joint").exists()
    _, report = run_chain(write_project(tmp_path / "project", run=section, train={"iterations": 2}))
    assert len(report.split.layers) == 4
    assert report.conflicts is None
