"""What `recon run` makes, and what it makes again: that which depends on a change, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recon_cli.artifacts.run import RunReport
from tests.chain.chains import MODULE, content, read, run_chain, stamps, timeless, write_project
from tests.networks import TwoTasks

SPLIT = {"split recon"}
SHARED = {"train joint, seed 0"}
BRANCHED = {"train joint-recon, seed 0"}
SINGLE = {"train single-task, seed 0"}
TRAININGS = SHARED | BRANCHED | SINGLE
FROM_PROFILE = {"profile", "rank"} | SPLIT | BRANCHED
EVERY = FROM_PROFILE | {"network"} | TRAININGS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project that was run."""
    folder = tmp_path_factory.mktemp("chain") / "project"
    run_chain(write_project(folder))
    return folder


@pytest.fixture
def project(made, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "project"))


# A first run


def test_a_run_is_what_its_commands_are_one_by_one(recon, tmp_path):
    def several(config):
        config["run"].update(seeds=[0, 2], methods=["joint", "pcgrad"], controls=["first-k"], severity=-0.05)

    config = write_project(tmp_path / "project", several)
    report = recon("run", config, "-o", "out", "--json").succeeds().document
    Path("typed").mkdir()
    recon("profile", config, "-o", "typed/scores.json").succeeds()
    recon("rank", "typed/scores.json", "-S", "-0.05", "-o", "typed/ranking.json").succeeds()
    for name in ("scores.json", "ranking.json"):
        assert Path("typed", name).read_bytes() == Path("out", name).read_bytes()
    shutil.copy("out/network.safetensors", "typed")
    for name, choice in {"recon": "--top-k", "first-k": "--first-k"}.items():
        split = ["split", "typed/network.safetensors", "--ranking", "typed/ranking.json", choice, 1]
        recon(*split, "-o", f"typed/{name}.safetensors").succeeds()
        for kind in ("safetensors", "manifest.json"):
            assert Path(f"typed/{name}.{kind}").read_bytes() == Path(f"out/splits/{name}.{kind}").read_bytes()
    ways = {
        "joint": [],
        "joint-recon": ["--manifest", "typed/recon.manifest.json"],
        "joint-first-k": ["--manifest", "typed/first-k.manifest.json"],
        "pcgrad": ["--method", "pcgrad"],
        "pcgrad-recon": ["--manifest", "typed/recon.manifest.json", "--method", "pcgrad"],
        "single-task": ["--single-task"],
    }
    for name, options in ways.items():
        recon("train", config, "-o", f"typed/{name}", "--seeds", "0,2", *options).succeeds()
        assert timeless(read(Path(f"typed/{name}/results.json"))) == timeless(read(Path(f"out/{name}/results.json")))
    weights = load_file("typed/joint-recon/seed-2/last.safetensors")
    assert all(
        torch.equal(tensor, weights[key])
        for key, tensor in load_file("out/joint-recon/seed-2/last.safetensors").items()
    )
    folders = [f"typed/{name}" for name in ways]
    results = recon("compare-results", *folders, "--single-task", "typed/single-task", "--json").succeeds().document
    assert {"schema": results["schema"], **timeless(report["results"])} == timeless(results)
    scores = [f"typed/{name}/seed-0/scores.json" for name in ways if name != "single-task"]
    conflicts = recon("compare-conflicts", *scores, "--json").succeeds().document
    # The command calls these by their paths, the run by its folders.
    for run, name in zip(conflicts["runs"], ways, strict=False):
        assert report["conflicts"]["runs"][list(ways).index(name)]["name"] == name
        run["name"] = name
    assert {"schema": conflicts["schema"], **report["conflicts"]} == conflicts
    for answer, rule in zip(report["answers"], ("joint", "pcgrad"), strict=True):
        pair = ["compare-results", f"typed/{rule}", f"typed/{rule}-recon", "--json"]
        _, branched = recon(*pair).succeeds().document["runs"]
        assert (answer["shared"], answer["branched"]) == (rule, f"{rule}-recon")
        assert answer["improvement"] == branched["improvement"]["total"]
        assert answer["operations_ratio"] == branched["operations_ratio"]
        sizes = [read(Path(f"typed/{name}/results.json"))["bytes"] for name in (rule, f"{rule}-recon")]
        assert answer["bytes_ratio"] == sizes[1] / sizes[0]
    assert RunReport.read("out/report.json").to_json() == report


def test_the_checkpoint_that_is_split_is_the_network_before_any_training(made):
    torch.manual_seed(0)
    expected = TwoTasks().state_dict()
    found = load_file(made / "out" / "network.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_what_was_split_is_in_the_report(made):
    report = RunReport.read(made / "out" / "report.json")
    manifest = read(made / "out" / "splits" / "recon.manifest.json")
    assert list(report.split.layers) == [read(made / "out" / "ranking.json")["layers"][0]["name"]]
    assert report.split.parameters_before == sum(parameter.numel() for parameter in TwoTasks().parameters())
    assert report.split.parameters_after == manifest["sizes"]["after"]["parameters"]
    assert report.split.cost == manifest["cost"]["branched"] / manifest["cost"]["shared"]


# A second run


def test_a_second_run_writes_nothing_but_the_same_report(project):
    out = project / "out"
    before, report = stamps(out), (out / "report.json").read_bytes()
    steps, _ = run_chain(project / "recon.yaml")
    assert steps == set()
    assert (out / "report.json").read_bytes() == report
    after = stamps(out)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {"report.json"}


def set_in(*path, value):
    def change(config):
        *sections, key = path
        for section in sections:
            config = config[section] if isinstance(section, int) else config.setdefault(section, {})
        config[key] = value

    return change


CHANGES = {
    "the network": (set_in("model", "kwargs", value={"version": 2}), EVERY),
    "a metric": (
        set_in("tasks", 0, "metrics", value=["accuracy", {"target": "miou", "kwargs": {"classes": 3}}]),
        TRAININGS,
    ),
    "a loss": (
        set_in("tasks", 0, "loss", value={"target": "cross_entropy", "kwargs": {"label_smoothing": 0.1}}),
        EVERY - {"network"},
    ),
    "the data": (set_in("data", "batch_size", value=10), EVERY - {"network"}),
    "the validation data": (set_in("validation", "kwargs", value={"size": 32}), TRAININGS),
    "the optimizer": (set_in("optimizer", "kwargs", "lr", value=0.1), EVERY - {"network"}),
    "the schedule": (set_in("scheduler", value={"target": "ConstantLR"}), EVERY - {"network"}),
    "the precision": (set_in("precision", value="bfloat16"), EVERY - {"network"}),
    "how long is profiled": (set_in("profile", "iterations", value=5), FROM_PROFILE),
    "what is measured": (set_in("profile", "exclude", value=["conv"]), EVERY - {"network"}),
    "the rule of the profile": (set_in("method", value="pcgrad"), FROM_PROFILE),
    "the seed of the profile": (set_in("seed", value=1), FROM_PROFILE | {"network"}),
    "how long is trained": (set_in("train", "iterations", value=4), TRAININGS),
    "the severity": (set_in("run", "severity", value=-0.1), {"rank"} | SPLIT | BRANCHED),
    "the selection": (set_in("run", "select", value={"top_k": 2}), SPLIT | BRANCHED),
    "what copies begin with": (set_in("run", "reinitialise", value=True), BRANCHED),
    "one seed more": (
        set_in("run", "seeds", value=[0, 1]),
        {name.replace("seed 0", "seed 1") for name in TRAININGS},
    ),
    "one rule more": (
        set_in("run", "methods", value=["joint", "pcgrad"]),
        {"train pcgrad, seed 0", "train pcgrad-recon, seed 0"},
    ),
    "a control": (set_in("run", "controls", value=["rsl"]), {"split rsl", "train joint-rsl, seed 0"}),
    "no single-task networks": (set_in("run", "single_task", value=False), set()),
    "the bound": (set_in("run", "bound", value=-0.02), set()),
    "draws of nothing": (set_in("run", "draws", value=3), set()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_config_redoes_what_depends_on_it(project, name):
    change, expected = CHANGES[name]
    config = write_project(project, change)
    steps, report = run_chain(config)
    assert steps == expected
    assert run_chain(config) == (set(), report)


def test_comments_and_formatting_redo_nothing(project):
    path = project / "recon.yaml"
    path.write_text("# the same\n" + json.dumps(content(), indent=4, sort_keys=True))
    assert run_chain(path)[0] == set()


def test_what_is_written_out_that_was_the_default_redoes_nothing(project):
    config = write_project(project, set_in("data", "shuffle", value=True), set_in("profile", "stages", value=4))
    assert run_chain(config)[0] == set()


def test_code_beside_the_config_redoes_what_it_computed(project):
    (project / "chain_project.py").write_text(MODULE + "\n# changed\n")
    # It computes the same, so that what follows from the profile stays.
    assert run_chain(project / "recon.yaml")[0] == {"profile", "network"} | TRAININGS
    (project / "other.py").write_text("# no target")
    assert run_chain(project / "recon.yaml")[0] == set()


def test_a_package_beside_the_config_counts_with_all_its_modules(tmp_path):
    package = tmp_path / "project" / "chain_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("from tests.networks import two_tasks\n")
    (package / "network.py").write_text("from chain_package.inner import two_tasks\n")
    config = write_project(tmp_path / "project", model={"target": "chain_package.network:two_tasks"})
    run_chain(config, last="profile")
    (package / "inner.py").write_text("from tests.networks import two_tasks  # changed\n")
    assert run_chain(config, last="profile")[0] == {"profile"}


def test_a_module_counts_although_a_folder_of_data_has_its_name(tmp_path):
    config = write_project(tmp_path / "project")
    data = config.parent / "chain_project"
    data.mkdir()
    (data / "prepare.py").write_text("")
    run_chain(config, last="profile")
    (data / "prepare.py").write_text("# changed\n")
    assert run_chain(config, last="profile")[0] == set()
    (config.parent / "chain_project.py").write_text(MODULE + "\n# changed\n")
    assert run_chain(config, last="profile")[0] == {"profile"}


def test_a_checkpoint_of_the_config_is_split_and_its_change_redoes_all(tmp_path):
    torch.manual_seed(5)
    weights = TwoTasks().state_dict()
    (tmp_path / "project").mkdir()
    torch.save({"epoch": 1, "model": weights}, tmp_path / "project" / "start.pt")
    named = set_in("model", "checkpoint", value="start.pt")
    config = write_project(tmp_path / "project", named)
    assert run_chain(config)[0] == EVERY - {"network"}
    out = tmp_path / "project" / "out"
    assert not (out / "network.safetensors").exists()
    branched = load_file(out / "splits" / "recon.safetensors")
    kept = [key for key in branched if key in weights]
    assert len(kept) > 5
    assert all(torch.equal(branched[key], weights[key]) for key in kept)
    assert run_chain(config)[0] == set()
    torch.save({"epoch": 2, "model": weights}, tmp_path / "project" / "start.pt")
    steps, _ = run_chain(config)
    assert {"profile", *SPLIT, *TRAININGS} <= steps


# Outputs that are gone or damaged


def remove(path):
    path.unlink()


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [remove, damage])
@pytest.mark.parametrize(
    ("file", "expected"),
    {
        "scores.json": {"profile"},
        "ranking.json": {"rank"},
        "network.safetensors": {"network"},
        "splits/recon.safetensors": SPLIT,
        "splits/recon.manifest.json": SPLIT,
        "joint/seed-0/training.json": SHARED,
        "joint/seed-0/scores.json": SHARED,
        "joint-recon/seed-0/last.safetensors": BRANCHED,
        "single-task/seed-0/left/log.jsonl": SINGLE,
        "joint/results.json": set(),
        "report.json": set(),
    }.items(),
)
def test_an_output_that_is_gone_or_damaged_is_made_again(project, made, harm, file, expected):
    harm(project / "out" / file)
    steps, report = run_chain(project / "recon.yaml")
    assert steps == expected
    assert timeless(report) == timeless(RunReport.read(made / "out" / "report.json"))
    assert (project / "out" / file).exists()
    if not file.endswith(("log.jsonl", "training.json", "results.json", "report.json")):
        assert (project / "out" / file).read_bytes() == (made / "out" / file).read_bytes()
    assert run_chain(project / "recon.yaml")[0] == set()


def test_a_report_of_before_does_not_stay_beside_what_is_new(project):
    config = write_project(project, set_in("train", "iterations", value=4))
    assert run_chain(config, last="train")[0] == TRAININGS
    assert not (project / "out" / "report.json").exists()


# Seeds


def test_seeds_of_the_command_line_go_before_those_of_the_config(project):
    steps, report = run_chain(project / "recon.yaml", asked_seeds=(3,))
    assert steps == {name.replace("seed 0", "seed 3") for name in TRAININGS}
    assert {run.seeds for run in report.results.runs} == {(3,)}


def test_a_seed_that_was_trained_with_other_code_is_trained_anew(project):
    config = project / "recon.yaml"
    (project / "chain_project.py").write_text(MODULE + "\n# changed\n")
    run_chain(config, asked_seeds=(1,))
    assert run_chain(config, asked_seeds=(0, 1))[0] == TRAININGS


def test_random_controls_are_drawn_several_times(project):
    config = write_project(project, set_in("run", "controls", value=["rsp", "last-k"]), set_in("run", "draws", value=2))
    steps, _ = run_chain(config)
    names = ("rsp-0", "rsp-1", "last-k")
    assert steps == {f"split {name}" for name in names} | {f"train joint-{name}, seed 0" for name in names}
    selections = [read(project / "out" / "splits" / f"{name}.manifest.json")["selection"] for name in names]
    assert [(each["policy"], each["argument"], each["seed"]) for each in selections] == [
        ("random-parameters", "1", 0),
        ("random-parameters", "1", 1),
        ("last-k", "1", None),
    ]
