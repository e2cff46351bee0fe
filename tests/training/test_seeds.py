"""Several seeds, and a network for every task."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from recon_cli.datasets import small_multi_fashion_mnist
from recon_cli.zoo import small_resnet
from tests import networks
from tests.training.by_hand import train_by_hand
from tests.training.folders import assert_same_training, document, log, parts, tasks, weights
from tests.training.test_equals_a_loop import DATA, EPOCHS, VALIDATION, assert_equal_to, near

SEEDS = (5, 0, 11)


def test_each_seed_is_trained_as_if_alone(recon, config):
    given = parts(
        model={"target": "tests.networks:Restless"},
        data={"target": "tests.networks:Augmented", "batch_size": 8},
        method="pcgrad",
    )
    path = config(**given)
    recon("train", path, "-o", "out", "--seeds", ",".join(map(str, SEEDS))).succeeds()
    finals = []
    for seed in SEEDS:
        recon("train", path, "-o", f"alone-{seed}", "--seeds", seed).succeeds()
        assert_same_training(Path(f"out/seed-{seed}"), Path(f"alone-{seed}/seed-{seed}"))
        finals.append(weights(Path(f"out/seed-{seed}/last.safetensors"))["conv.weight"])
    assert not torch.equal(finals[0], finals[1])


def test_the_configs_seed_is_taken_where_none_is_named(recon, config):
    recon("train", config(**parts(seed=5)), "-o", "out").succeeds()
    expected = train_by_hand(
        networks.two_tasks, DATA, epochs=EPOCHS, optimizer=partial(SGD, lr=0.05), validation=VALIDATION, seed=5
    )
    assert_equal_to(Path("out/seed-5"), expected)


def test_results_are_means_and_deviations_over_seeds(recon, config):
    given = parts(optimizer={"target": "SGD", "kwargs": {"lr": 1.0}})
    shown = recon("train", config(**given), "-o", "out", "--seeds", ",".join(map(str, SEEDS)), "--json").succeeds()
    results = document(Path("out/results.json"))
    assert {**shown.document, "seconds": None}.keys() == {**results, "seconds": None}.keys()
    trainings = [document(Path(f"out/seed-{seed}/training.json")) for seed in SEEDS]
    assert [training["seed"] for training in results["trainings"]] == list(SEEDS)
    for when in ("last", "best"):
        for task in ("left", "right"):
            for name in ("loss", "accuracy"):
                values = [training[when]["figures"][task][name] for training in trainings]
                found = results[when][task][name]
                assert found["values"] == values
                assert len(set(values)) > 1 or name == "accuracy"
                assert found["mean"] == near(numpy.mean(values))
                assert found["deviation"] == near(numpy.std(values, ddof=1))
    assert (results["steps"], results["parameters"]) == (trainings[0]["steps"], trainings[0]["parameters"])


def test_of_one_seed_there_is_no_deviation(recon, config):
    recon("train", config(**parts()), "-o", "out").succeeds()
    assert document(Path("out/results.json"))["last"]["left"]["loss"]["deviation"] is None


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_network_for_a_task_is_trained_as_if_there_were_no_other_loss(recon, config, accumulate):
    given = parts(optimizer={"target": "SGD", "kwargs": {"lr": 0.2}, "accumulate": accumulate})
    recon("train", config(**given), "-o", "out", "--single-task", "--seeds", "0,3").succeeds()
    for seed in (0, 3):
        for task in ("left", "right"):
            expected = train_by_hand(
                networks.two_tasks, DATA, epochs=EPOCHS, optimizer=partial(SGD, lr=0.2), validation=VALIDATION,
                accumulate=accumulate, seed=seed, weights={task: 1.0},
            )  # fmt: skip
            assert_equal_to(Path(f"out/seed-{seed}/{task}"), expected)
            saved = document(Path(f"out/seed-{seed}/{task}/training.json"))
            assert (saved["tasks"], saved["method"]["name"]) == ([task], "joint")
    results = document(Path("out/results.json"))
    assert results["single_task"] is True
    assert [(each["seed"], each["tasks"]) for each in results["trainings"]] == [
        (seed, [task]) for seed in (0, 3) for task in ("left", "right")
    ]
    for task in ("left", "right"):
        finals = [log(Path(f"out/seed-{seed}/{task}"), "evaluation")[-1]["figures"][task] for seed in (0, 3)]
        for name in ("loss", "accuracy"):
            assert results["last"][task][name]["values"] == [figures[name] for figures in finals]


def test_a_single_task_costs_what_its_loss_reaches(recon, config):
    classes = {"fashion": 10, "mnist": 10}
    given = parts(
        model={"target": "recon_cli.zoo:small_resnet", "kwargs": {"features": 16, "classes": classes}},
        tasks=[{"name": name, "loss": "cross_entropy", "label": name} for name in classes],
        data={"target": "recon_cli.datasets:small_multi_fashion_mnist", "kwargs": {"train": True}, "batch_size": 4},
        validation=None,
        train={"iterations": 1},
    )
    path = config(**given)
    recon("train", path, "-o", "alone", "--single-task").succeeds()
    recon("train", path, "-o", "joint").succeeds()
    network = small_resnet(features=16, classes=classes)
    images = torch.stack([small_multi_fashion_mnist(train=True)[index][0] for index in range(4)])
    of_head = {}
    flops = {}
    for task in classes:
        network.zero_grad()
        network(images)[task].sum().backward()
        of_head[task] = sum(p.numel() for p in network.parameters() if p.grad is not None)
    whole = sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(images)
    flops = counter.get_total_flops()
    trunk = whole - sum(whole - number for number in of_head.values())
    assert trunk < of_head["fashion"] < whole
    for task in classes:
        saved = document(Path(f"alone/seed-0/{task}/training.json"))
        assert (saved["parameters"], saved["bytes"]) == (of_head[task], 4 * of_head[task])
        assert saved["operations"] < flops
    joint, alone = (document(Path(folder, "results.json")) for folder in ("joint", "alone"))
    assert (joint["parameters"], joint["operations"]) == (whole, flops)
    assert alone["parameters"] == sum(of_head.values())
    heads = [flops - document(Path(f"alone/seed-0/{task}/training.json"))["operations"] for task in classes]
    # Each network leaves out the other's head: a linear layer's 2 M N operations per item.
    assert heads == [2 * 4 * 16 * 10] * 2
    assert alone["operations"] == 2 * flops - sum(heads)


def test_a_single_task_is_judged_by_its_loss_where_it_has_not_the_metric(recon, config):
    both = tasks()
    both[1].pop("metrics")
    given = parts(tasks=both, train={"epochs": 3, "best": "accuracy"})
    path = config(**given)
    recon("train", path, "-o", "joint").succeeds()
    recon("train", path, "-o", "alone", "--single-task").succeeds()
    evaluations = log(Path("alone/seed-0/right"), "evaluation")
    values = [line["figures"]["right"]["loss"] for line in evaluations]
    best = document(Path("alone/seed-0/right/training.json"))["best"]
    assert best["figures"]["right"]["loss"] == min(values)
    assert set(best["figures"]["right"]) == {"loss"}


PARTIAL = {
    "model": {"target": "tests.networks:ThreeTasks"},
    "tasks": [{"name": name, "loss": "cross_entropy", "label": name, "partial": True} for name in "abc"],
    "data": {"target": "tests.networks:partial_batches", "kwargs": {"keys": False}},
}


@pytest.mark.parametrize("validated", [False, True])
def test_a_single_task_passes_over_batches_without_its_label(recon, config, validated):
    given = PARTIAL | {"train": {"epochs": 2, "log_every": 1}}
    if validated:
        given["validation"] = PARTIAL["data"]
    recon("train", config(**given), "-o", "out", "--single-task").succeeds()
    for task in "abc":
        torch.manual_seed(0)
        model = networks.ThreeTasks()
        optimizer = SGD(model.parameters(), lr=0.05)
        own = [batch for batch in networks.partial_batches() if batch[1][task] is not None]
        losses = []
        for inputs, labels in [*own, *own]:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(**inputs)[task], labels[task])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        folder = Path(f"out/seed-0/{task}")
        assert [line["losses"][task] for line in log(folder, "steps")] == near(losses)
        for name, value in model.state_dict().items():
            assert torch.equal(weights(folder / "last.safetensors")[name], value), name
        assert len(own) < len(networks.PRESENT)
        assert len(log(folder, "evaluation")) == 2 * validated


def test_a_task_without_any_label_is_refused_alone(recon, config):
    data = {"target": "tests.networks:partial_batches", "kwargs": {"present": ["ab", "a"], "keys": False}}
    path = config(**PARTIAL | {"data": data, "train": {"iterations": 4}})
    recon("train", path, "-o", "out", "--single-task").refuses("no batch has a label for `c`")
    assert "task `c` had no label" in recon("train", path, "-o", "joint").succeeds().err
