"""Where `recon run` begins and ends, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon_cli.artifacts.run import RunReport
from recon_cli.chain.stages import STAGES
from tests.chain.chains import MODULE, run_chain, stamps, timeless, write_project

STEPS = {
    "profile": {"profile"},
    "rank": {"rank"},
    "split": {"network", "split recon"},
    "train": {"train joint, seed 0", "train joint-recon, seed 0", "train single-task, seed 0"},
    "compare": set(),
}


def steps_of(stages):
    return set().union(*(STEPS[stage] for stage in stages))


@pytest.fixture
def config(tmp_path):
    return write_project(tmp_path / "project")


def test_a_run_ends_with_the_stage_of_until_and_goes_on_from_there(config):
    for stage in STAGES:
        steps, report = run_chain(config, last=stage)
        assert steps == STEPS[stage]
        assert (report is None) == (stage != "compare")
    assert (config.parent / "out" / "report.json").exists()


def test_from_makes_a_stage_and_all_after_it_anew(config):
    _, first = run_chain(config)
    for place, stage in enumerate(STAGES):
        steps, report = run_chain(config, first=stage)
        assert steps == steps_of(STAGES[place:])
        assert timeless(report) == timeless(first)


def test_from_takes_what_is_before_it_though_the_config_is_another(config):
    run_chain(config)
    before = stamps(config.parent / "out")
    changed = write_project(config.parent, optimizer={"target": "Adam"})
    steps, _ = run_chain(changed, first="train")
    assert steps == STEPS["train"]
    after = stamps(config.parent / "out")
    for name in ("scores.json", "ranking.json", "network.safetensors", "splits/recon.safetensors"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    ("first", "gone", "earlier"),
    [
        ("rank", "scores.json", "profile"),
        ("split", "ranking.json", "rank"),
        ("train", "splits/recon.manifest.json", "split"),
        ("compare", "joint-recon/seed-0/training.json", "train"),
    ],
)
def test_from_needs_what_is_before_it(recon, config, first, gone, earlier):
    run_chain(config)
    out = config.parent / "out"
    (out / gone).unlink()
    before = stamps(out)
    recon("run", config, "-o", out, "--from", first).refuses(f"--from {first} takes", f"--from {earlier}")
    assert stamps(out) == before
    recon("run", config, "-o", "none", "--from", first).refuses(f"--from {first} takes", "--from profile")


def test_a_comparison_is_not_of_seeds_that_were_not_trained(recon, config):
    run_chain(config)
    out = config.parent / "out"
    recon("run", config, "-o", out, "--from", "compare", "--seeds", "0,1").refuses("train joint, seed 1")


def test_from_profile_needs_nothing(recon, config):
    recon("run", config, "-o", "out", "--from", "profile", "-q").succeeds()
    assert Path("out/report.json").exists()


def test_stages_that_contradict_each_other_are_refused(recon, config):
    recon("run", config, "-o", "out", "--from", "train", "--until", "rank").refuses("--from train", "--until rank")
    assert "Invalid value" in recon("run", config, "-o", "out", "--from", "nothing").err
    recon("run", config, "-o", "out", "--json", "--until", "split").refuses("--json", "--until split")
    recon("run", config, "-o", "out", "--json", "--quiet").refuses("--json and --quiet contradict each other")
    recon("run", config, "-o", "-").refuses("writes a folder")
    assert not Path("out").exists()
    assert not Path("-").exists()


def test_a_folder_of_something_else_is_left_alone(recon, config):
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    recon("run", config, "-o", "other").refuses("`", "is not empty, and no folder of `recon run`")
    assert [path.name for path in Path("other").iterdir()] == ["notes.txt"]
    Path("file").write_text("mine")
    recon("run", config, "-o", "file").refuses("file`")
    assert Path("file").read_text() == "mine"
    Path("empty").mkdir()
    recon("run", config, "-o", "empty", "--until", "profile", "-q").succeeds()


def test_a_ledger_that_cannot_be_read_is_one_sentence(recon, config):
    run_chain(config, last="rank")
    ledger = config.parent / "out" / "ledger.json"
    ledger.write_text(ledger.read_text()[:100])
    recon("run", config, "-o", config.parent / "out").refuses("ledger.json`", "is not valid JSON")
    ledger.write_text('{"schema": "recon.run/1"}')
    recon("run", config, "-o", config.parent / "out").refuses("ledger.json`", "recon.ledger/1")


def test_without_validation_data_nothing_is_begun(recon, config):
    write_project(config.parent, validation=None)
    recon("run", config, "-o", "out").refuses("validation data", "add a section `validation`")
    assert not Path("out").exists()


def test_torchrun_is_refused(recon, config, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    recon("run", config, "-o", "out").refuses("`recon run` runs as one process", "`recon profile`")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"select": {"budget": "5%"}, "controls": ["rsl"]}, ["`controls` split as many layers", "top_k"]),
        ({"select": {"top_k": 1, "budget": "5%"}}, ["give one of"]),
        ({"select": {}}, ["give one of"]),
        ({"seeds": [0, 1, 0]}, ["0 stands there twice"]),
        ({"controls": ["rsl", "rsl"]}, ["rsl stands there twice"]),
        ({"methods": ["pcgrad", {"name": "PCGrad"}]}, ["pcgrad stands there twice"]),
        ({"seeds": []}, ["run.seeds"]),
        ({"severity": 0.1}, ["run.severity"]),
        ({"controls": ["worst-k"]}, ["run.controls"]),
        ({"top_k": 3}, ["`run.top_k` is not a known key"]),
    ],
)
def test_a_section_that_cannot_be_is_refused(recon, config, section, words):
    write_project(config.parent, run=section)
    recon("run", config, "-o", "out").refuses("run", *words)
    assert not Path("out").exists()


def test_rules_that_would_share_a_folder_are_refused(recon, config):
    rules = [{"name": "pcgrad", "groups": [["a*"]]}, {"name": "pcgrad", "groups": [["a?"]]}]
    write_project(config.parent, run={"severity": 0.0, "select": {"top_k": 1}, "methods": rules})
    recon("run", config, "-o", "out").refuses("two of `run.methods`", "pcgrad")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("pcgrda", ["no update rule `pcgrda`", "`pcgrad`"]),
        ({"name": "cagrad", "parameters": {"d": 0.4}}, ["`cagrad`", "`d`"]),
        ({"name": "rotograd", "feature": "body"}, ["`rotograd` cannot train a split network", "`run.methods`"]),
    ],
)
def test_rules_that_cannot_be_trained_by_are_refused_before_the_first_step(recon, config, rule, words):
    write_project(config.parent, run={"severity": 0.0, "select": {"top_k": 1}, "methods": ["joint", rule]})
    recon("run", config, "-o", "out").refuses(*words)
    assert not Path("out").exists()
    recon("run", config, "-o", "out", "--until", "rank").succeeds()


SLIPS = {
    "best": (lambda config: config["train"].update(best="acuracy"), ["`train.best` names `acuracy`", "`accuracy`"]),
    "metric": (
        lambda config: config["tasks"][1].update(metrics=["acuracy"]),
        ["task `right`, metric `acuracy`", "did you mean `accuracy`?"],
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_that_only_a_training_would_meet_are_refused_before_the_profile(recon, config, slip):
    change, words = SLIPS[slip]
    write_project(config.parent, change)
    recon("run", config, "-o", "out").refuses(*words)
    assert not Path("out").exists()


def test_seeds_are_as_recon_train_takes_them(recon, config):
    recon("run", config, "-o", "out", "--seeds", "1,1").refuses("--seeds names 1 twice")
    recon("run", config, "-o", "out", "--seeds", "4,3", "-q").succeeds()
    assert {run.seeds for run in RunReport.read("out/report.json").results.runs} == {(4, 3)}


def test_json_is_the_report_and_quiet_is_quiet(recon, config):
    noisy = MODULE.replace("    return", "    print('hello')\n    return")
    (config.parent / "chain_project.py").write_text(noisy.replace("chain_project", "chain_noisy"))
    result = recon("run", config, "-o", "out", "--json").succeeds()
    assert result.out == Path("out/report.json").read_text()
    assert recon("run", config, "-o", "out", "--quiet").succeeds().out == ""
    assert recon("run", config, "-o", "out", "--until", "rank").succeeds().out == ""
