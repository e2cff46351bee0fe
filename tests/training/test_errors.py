"""What a user can get wrong: one sentence, exit code 2, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import networks
from tests.experiment.programs import write
from tests.training.folders import METRICS, document, log, parts, tasks

SGD = {"target": "SGD", "kwargs": {"lr": 0.05}}
VALIDATION = {"target": "tests.networks:two_task_data"}


def with_metrics(*metrics: object) -> dict[str, object]:
    return {"tasks": tasks(metrics=list(metrics))}


def schedule(target: str, **section: object) -> dict[str, object]:
    return {"scheduler": {"target": target, **section}}


OPTIONS = {
    "two lengths": (["--epochs", 1, "--iterations", 1], ["--epochs and --iterations contradict"]),
    "copies without a manifest": (["--reinitialise"], ["--reinitialise", "--manifest"]),
    "copies and weights for them": (
        ["--reinitialise", "--manifest", "m.json", "--checkpoint", "c.safetensors"],
        ["--checkpoint holds weights for all copies", "leave one of them out"],
    ),
    "a rule for one task": (["--single-task", "--method", "famo"], ["nothing to split or to balance"]),
    "a split for one task": (["--single-task", "--manifest", "m.json"], ["nothing to split or to balance"]),
    "no number": (["--seeds", "0,one"], ["--seeds `0,one` is no list of seeds", "`0,1,2`"]),
    "a negative seed": (["--seeds=-1"], ["is no list of seeds"]),
    "no seed": (["--seeds", ""], ["is no list of seeds"]),
    "a seed twice": (["--seeds", "1,0,1"], ["names 1 twice"]),
    "an unknown device": (["--device", "tpu"], ["`tpu` is not known"]),
    "an unknown rule": (["--method", "pcgrda"], ["no update rule `pcgrda`", "`pcgrad`"]),
    "no manifest": (["--manifest", "m.json"], ["m.json"]),
    "no checkpoint": (["--checkpoint", "c.safetensors"], ["c.safetensors"]),
    "no folder": (["-o", "-"], ["standard output", "-o runs/joint"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_make_no_sense_are_refused(recon, config, case):
    options, words = OPTIONS[case]
    path = config(**parts())
    recon("train", path, *([] if "-o" in options else ["-o", "out"]), *options).refuses(*words)
    assert [entry.name for entry in Path().iterdir()] == ["recon.yaml"]


CONFIGS = {
    "two lengths": ({"train": {"epochs": 1, "iterations": 1}}, ["`epochs` and `iterations` contradict each other"]),
    "two samplings": ({"train": {"conflicts": {"every": 1, "samples": 2}}}, ["`every` and `samples`"]),
    "no clipping": ({"optimizer": {**SGD, "clip_norm": 0}}, ["optimizer.clip_norm"]),
    "no batch": ({"optimizer": {**SGD, "accumulate": 0}}, ["optimizer.accumulate"]),
    "a precision": ({"precision": "float8"}, ["precision"]),
    "an optimizer": ({"optimizer": {"target": "SDG"}}, ["torch.optim has no optimizer `SDG`", "`SGD`"]),
    "a schedule": (schedule("StepRL"), ["has no schedule `StepRL`", "`StepLR`"]),
    "a schedule's argument": (schedule("StepLR", kwargs={"size": 1}), ["scheduler.target `StepLR` failed", "size"]),
    "no schedule": (schedule("tests.networks:not_a_module"), ["`tests.networks:not_a_module`"]),
    "a plateau per step": (schedule("ReduceLROnPlateau", per="step"), ["looks at what an epoch came to", "per: step"]),
    "a metric": (with_metrics("acuracy"), ["no metric `acuracy`", "`accuracy`"]),
    "a metric's argument": (
        with_metrics({"target": "accuracy", "kwargs": {"ignor": 1}}),
        ["metric `accuracy`", "`ignor`", "`ignore`"],
    ),
    "a metric's direction": (with_metrics({"target": "accuracy", "better": "lower"}), ["higher values are better"]),
    "no direction": (with_metrics("tests.networks:per_item_loss"), ["better: higher"]),
    "a metric twice": (with_metrics("accuracy", "accuracy"), ["two metrics are called 'accuracy'"]),
    "a metric that is called loss": (with_metrics({"target": "accuracy", "name": "loss"}), ["called 'loss'"]),
    "the best": ({"train": {"best": "miou"}}, ["`train.best` names `miou`", "`left/accuracy`", "`loss`"]),
    "the best, misspelt": ({"train": {"best": "acuracy"}}, ["names `acuracy`", "did you mean `accuracy`?"]),
    "the best of a task": ({"train": {"best": "up/accuracy"}}, ["names `up/accuracy`"]),
    "the best of both kinds": (
        {
            "tasks": [
                {**task, "metrics": [{"target": target, "name": "score", "better": better}]}
                for task, target, better in zip(
                    tasks(), ("accuracy", "tests.networks:per_item_loss"), ("higher", "lower"), strict=True
                )
            ],
            "train": {"best": "score"},
        },
        ["some tasks want high values and others low ones", "task/metric"],
    ),
    "a schedule that waits for low accuracies": (
        {**schedule("ReduceLROnPlateau"), "train": {"best": "accuracy"}},
        ["high values are good, but its `mode` is `min`", "mode: max"],
    ),
    "a schedule that waits for high losses": (
        schedule("ReduceLROnPlateau", kwargs={"mode": "max"}),
        ["low values are good, but its `mode` is `max`"],
    ),
    "validation data": ({"validation": {"target": "tests.networks:nowhere"}}, ["tests.networks", "nowhere"]),
    "failing validation data": (
        {"validation": {"target": "tests.networks:failing"}},
        ["validation.target `tests.networks:failing` failed", "no weights today"],
    ),
    "no validation data": (
        {"validation": {"target": "tests.networks:two_task_data", "kwargs": {"size": 0}}},
        ["validation.target", "is empty"],
    ),
    "validation data that is none": (
        {"validation": {"target": "tests.networks:two_tasks"}},
        ["validation.target", "a Dataset or an iterable of batches was expected"],
    ),
    "a rule that looks at one batch": (
        {"method": "famo", "optimizer": {**SGD, "accumulate": 2}},
        ["`famo`", "a step that accumulates has several", "`accumulate` under `optimizer`"],
    ),
    "a metric of another shape": (
        with_metrics("tests.training.test_errors:picky"),
        ["task `left`, metric `picky`", "only pictures"],
    ),
    "a schedule that waits for high values of nothing": (
        {**schedule("ReduceLROnPlateau", kwargs={"mode": "max"}), "validation": None},
        ["without validation data it follows the losses", "mode: min"],
    ),
    "samples of unknown length": (
        {"data": {"target": "tests.networks:Shuffled"}, "train": {"epochs": 1, "conflicts": {"samples": 5}}},
        ["`train.conflicts.samples`", "does not say how many", "train.iterations"],
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_make_no_sense_are_refused_before_anything_is_written(recon, config, case):
    changes, words = CONFIGS[case]
    recon("train", config(**parts(**changes)), "-o", "out").refuses(*words)
    assert [entry.name for entry in Path().iterdir()] == ["recon.yaml"]


def test_an_exported_network_cannot_be_evaluated(recon, config, tmp_path):
    model = write("exported", networks.TwoTasks(), (torch.rand(8, 1, 5, 5),), tmp_path)
    options = ["-o", "out", "--allow-exported"]
    recon("train", config(**parts(model=model)), *options).refuses("evaluation mode")
    assert not Path("out").exists()
    path = config(**parts(model=model, validation=None, train={"iterations": 2}))
    assert "nothing will be evaluated" in recon("train", path, *options).succeeds().err


LATE = {
    "a loss": (
        {"tasks": [{**tasks()[0], "loss": "tests.networks:explode_loss"}, tasks()[1]], "validation": None},
        ["the loss of task `left` became inf in iteration 3"],
    ),
}


def picky(output: torch.Tensor, label: torch.Tensor) -> float:
    raise ValueError("only pictures, please")


picky.higher_is_better = True


@pytest.mark.parametrize("case", LATE)
def test_what_fails_on_the_way_says_of_which_task_it_is(recon, config, monkeypatch, case):
    changes, words = LATE[case]
    monkeypatch.setattr(networks.explode_loss, "calls", 0)
    path = config(**parts(**changes))
    recon("train", path, "-o", "out").refuses(*words)
    assert not Path("out/results.json").exists()
    assert not list(Path("out").rglob("training.json"))
    assert not list(Path("out").rglob("last.safetensors"))
    assert all(isinstance(line, dict) for line in log(Path("out/seed-0")))


def test_a_folder_with_anything_in_it_is_left_alone(recon, config):
    Path("out").mkdir()
    Path("out/mine").write_text("mine")
    path = config(**parts())
    recon("train", path, "-o", "out").refuses("the folder `", "is not empty", "--resume", "--force")
    assert [entry.name for entry in Path("out").iterdir()] == ["mine"]
    recon("train", path, "-o", "out", "--force").succeeds()
    assert Path("out/mine").read_text() == "mine"
    Path("file").write_text("")
    for place in ("file", "file/in/it"):
        recon("train", path, "-o", place, "--force").refuses("`", "file` is a file, but a folder")


def test_force_costs_no_result_where_the_config_cannot_be_trained(recon, config):
    path = config(**parts())
    recon("train", path, "-o", "out").succeeds()
    before = {entry: entry.read_bytes() for entry in Path("out").rglob("*") if entry.is_file()}
    broken = config("broken.yaml", **parts(train={"best": "nothing"}))
    recon("train", broken, "-o", "out", "--force").refuses("`train.best`")
    assert {entry: entry.read_bytes() for entry in Path("out").rglob("*") if entry.is_file()} == before


def test_force_begins_all_seeds_anew(recon, config):
    path = config(**parts())
    recon("train", path, "-o", "out", "--seeds", "0,1").succeeds()
    other = config("other.yaml", **parts(optimizer={"target": "SGD", "kwargs": {"lr": 0.5}}))
    result = recon("train", other, "-o", "out", "--seeds", "0,1", "--force").succeeds()
    assert "trained before" not in result.err
    recon("train", other, "-o", "whole", "--seeds", "0,1").succeeds()
    assert document(Path("out/results.json")) == document(Path("whole/results.json"))


def test_an_input_is_not_replaced(recon, config):
    path = config(**parts())
    recon("train", path, "-o", "out").succeeds()
    best = Path("out/seed-0/best.safetensors")
    before = best.read_bytes()
    recon("train", path, "-o", "out", "--force", "--checkpoint", best).refuses("is an input of the training")
    assert best.read_bytes() == before
    recon("train", path, "-o", "other", "--checkpoint", best).succeeds()


def test_data_without_a_whole_batch_is_said_so(recon, config):
    data = {"target": "tests.networks:two_task_data", "kwargs": {"size": 4}, "batch_size": 8}
    path = config(**parts(data=data, train={"epochs": 1, "conflicts": {"every": 2}}))
    recon("train", path, "-o", "out").refuses("has 4 items, fewer than one batch of 8")


def test_validation_data_has_to_last_for_every_evaluation(recon, config):
    pair = [{**task, "label": place} for place, task in enumerate(tasks(metrics=METRICS))]
    path = config(
        **parts(
            tasks=pair,
            data={"target": "tests.networks:list_of_triples"},
            validation={"target": "tests.networks:generator_of_batches"},
        )
    )
    refused = recon("train", path, "-o", "out")
    refused.refuses("validation.target `tests.networks:generator_of_batches` gave no batch", "gone through again")
    assert len(log(Path("out/seed-0"), "evaluation")) == 1
