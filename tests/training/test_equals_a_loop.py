"""`recon train` against the loop that one would write in plain torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler

from tests import networks
from tests.training.by_hand import ByHand, evaluate, train_by_hand
from tests.training.folders import document, log, parts, tasks, weights

EPOCHS = 3
SEED_0 = Path("out/seed-0")
DATA = networks.TwoTaskData()
VALIDATION = networks.TwoTaskData(21)

SGD_MOMENTUM = {"target": "SGD", "kwargs": {"lr": 0.2, "momentum": 0.9}}
BY_SGD = partial(SGD, lr=0.2, momentum=0.9)
ONE_CYCLE = {"max_lr": 0.3, "total_steps": 5 * EPOCHS}
PLATEAU = {"patience": 0, "factor": 0.1, "threshold": 0.5}

CASES = {
    "SGD": ({"optimizer": SGD_MOMENTUM}, {"optimizer": BY_SGD}),
    "AdamW": (
        {"optimizer": {"target": "AdamW", "kwargs": {"lr": 0.01, "weight_decay": 0.1}}},
        {"optimizer": partial(AdamW, lr=0.01, weight_decay=0.1)},
    ),
    "a schedule per epoch": (
        {
            "optimizer": SGD_MOMENTUM,
            "scheduler": {"target": "MultiStepLR", "kwargs": {"milestones": [1, 2], "gamma": 0.1}},
        },
        {"optimizer": BY_SGD, "per_epoch": partial(lr_scheduler.MultiStepLR, milestones=[1, 2], gamma=0.1)},
    ),
    "a schedule per step": (
        {"optimizer": SGD_MOMENTUM, "scheduler": {"target": "OneCycleLR", "kwargs": ONE_CYCLE, "per": "step"}},
        {"optimizer": BY_SGD, "per_step": partial(lr_scheduler.OneCycleLR, **ONE_CYCLE)},
    ),
    "a schedule that follows the validation loss": (
        {"optimizer": SGD_MOMENTUM, "scheduler": {"target": "ReduceLROnPlateau", "kwargs": PLATEAU}},
        {"optimizer": BY_SGD, "follows": partial(lr_scheduler.ReduceLROnPlateau, **PLATEAU)},
    ),
    "clipped": ({"optimizer": {**SGD_MOMENTUM, "clip_norm": 0.05}}, {"optimizer": BY_SGD, "clip_norm": 0.05}),
    "accumulated": ({"optimizer": {**SGD_MOMENTUM, "accumulate": 2}}, {"optimizer": BY_SGD, "accumulate": 2}),
    "accumulated, clipped, per step": (
        {
            "optimizer": {**SGD_MOMENTUM, "accumulate": 3, "clip_norm": 0.1},
            "scheduler": {"target": "StepLR", "kwargs": {"step_size": 2}, "per": "step"},
        },
        {
            "optimizer": BY_SGD,
            "accumulate": 3,
            "clip_norm": 0.1,
            "per_step": partial(lr_scheduler.StepLR, step_size=2),
        },
    ),
    "bfloat16": (
        {"optimizer": SGD_MOMENTUM, "precision": "bfloat16"},
        {"optimizer": BY_SGD, "autocast": torch.bfloat16},
    ),
}


def assert_equal_to(folder: Path, expected: ByHand) -> None:
    """Check weights bit for bit, and all that the log says, to the rounding of its sums."""
    assert_same_weights(weights(folder / "last.safetensors"), expected.model)
    assert [line["losses"] for line in log(folder, "steps")] == [near(losses) for losses in expected.steps]
    assert [line["losses"] for line in log(folder, "epoch")] == [near(losses) for losses in expected.epochs]
    assert [line["rates"] for line in log(folder, "steps")] == [[rate] for rate in expected.rates]
    assert [line["step"] for line in log(folder, "steps")] == list(range(1, len(expected.steps) + 1))
    of_tasks = [line["figures"] for line in log(folder, "evaluation")]
    assert len(of_tasks) == len(expected.evaluations)
    for mine, theirs in zip(of_tasks, expected.evaluations, strict=True):
        assert mine == {task: near(figures) for task, figures in theirs.items()}


def near(values):
    return pytest.approx(values, rel=1e-6)


def assert_same_weights(mine: dict[str, torch.Tensor], model: nn.Module) -> None:
    theirs = model.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(mine[name], value), name


@pytest.mark.parametrize("case", CASES)
def test_a_training_is_the_loop_that_its_config_describes(recon, config, case):
    described, written = CASES[case]
    recon("train", config(**parts(**described)), "-o", "out").succeeds()
    expected = train_by_hand(networks.two_tasks, DATA, epochs=EPOCHS, validation=VALIDATION, **written)
    assert_equal_to(SEED_0, expected)
    rates = {rate for line in log(SEED_0) if "rates" in line for rate in line["rates"]}
    assert len(rates) > 1 or "scheduler" not in described


def test_dropout_and_noise_are_drawn_as_in_a_loop(recon, config):
    given = parts(
        model={"target": "tests.networks:Restless"},
        data={"target": "tests.networks:Augmented", "batch_size": 8},
        optimizer=SGD_MOMENTUM,
        validation=None,
    )
    recon("train", config(**given), "-o", "out").succeeds()
    expected = train_by_hand(networks.Restless, networks.Augmented(), epochs=EPOCHS, optimizer=BY_SGD)
    assert_equal_to(SEED_0, expected)


def test_a_schedule_may_follow_a_metric(recon, config):
    described = {"optimizer": {"target": "SGD", "kwargs": {"lr": 1.0}}, "train": {"epochs": 8, "best": "accuracy"}}
    plateau = {"target": "ReduceLROnPlateau", "kwargs": {**PLATEAU, "mode": "max", "threshold": 0.0}}
    recon("train", config(**parts(**described, scheduler=plateau)), "-o", "out").succeeds()
    rate, best, rates = 1.0, -1.0, []
    for line in log(SEED_0, "evaluation"):
        rates.append([rate])
        accuracy = sum(figures["accuracy"] for figures in line["figures"].values()) / 2
        rate, best = (rate, accuracy) if accuracy > best else (rate * 0.1, best)
    assert [line["rates"] for line in log(SEED_0, "epoch")] == [near(rate) for rate in rates]
    assert len({rate for (rate,) in rates}) > 2


def test_a_schedule_passes_over_epochs_that_are_not_evaluated(recon, config):
    described = {"optimizer": {"target": "SGD", "kwargs": {"lr": 1.0}}, "train": {"epochs": 8, "evaluate_every": 3}}
    # No evaluation is so much better, and two are needed after the first.
    plateau = {"target": "ReduceLROnPlateau", "kwargs": {"patience": 0, "threshold": 0.99, "factor": 0.5}}
    recon("train", config(**parts(**described, scheduler=plateau)), "-o", "out").succeeds()
    rates = [line["rates"] for line in log(SEED_0, "epoch")]
    assert rates == [[1.0]] * 6 + [[0.5]] * 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_without_validation_data_a_schedule_follows_the_losses(recon, config, accumulate):
    described, written = CASES["a schedule that follows the validation loss"]
    given = parts(**described | {"optimizer": {**SGD_MOMENTUM, "accumulate": accumulate}}, validation=None)
    recon("train", config(**given), "-o", "out").succeeds()
    assert_equal_to(SEED_0, train_by_hand(networks.two_tasks, DATA, epochs=EPOCHS, accumulate=accumulate, **written))
    assert not (SEED_0 / "best.safetensors").exists()
    assert document(SEED_0 / "training.json")["last"] is None


def test_to_evaluate_changes_nothing_of_the_training(recon, config):
    noisy = {"target": "tests.networks:Augmented", "batch_size": 8}
    described = {"model": {"target": "tests.networks:Restless"}, "data": noisy}
    recon("train", config(**parts(**described, validation=None)), "-o", "plain").succeeds()
    evaluated = parts(**described, validation={"target": "tests.networks:Augmented"})
    recon("train", config(**evaluated), "-o", "evaluated").succeeds()
    plain, other = (weights(Path(folder, "seed-0/last.safetensors")) for folder in ("plain", "evaluated"))
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_the_best_weights_are_those_of_the_best_evaluation(recon, config):
    # A rate so high that the loss gets worse again.
    described = {"optimizer": {"target": "SGD", "kwargs": {"lr": 2.0}}, "train": {"epochs": 6, "log_every": 1}}
    recon("train", config(**parts(**described)), "-o", "out").succeeds()
    evaluations = log(SEED_0, "evaluation")
    values = [sum(figures["loss"] for figures in line["figures"].values()) for line in evaluations]
    best = values.index(min(values))
    assert [line["best"] for line in evaluations] == [value == min(values[: n + 1]) for n, value in enumerate(values)]
    assert 0 < best < 5, values
    saved = document(SEED_0 / "training.json")
    assert saved["best"] == {name: evaluations[best][name] for name in ("step", "epoch", "figures")}
    assert saved["last"] == {name: evaluations[-1][name] for name in ("step", "epoch", "figures")}
    model = networks.two_tasks()
    model.load_state_dict(weights(SEED_0 / "best.safetensors"))
    assert evaluate(model, VALIDATION, 8, None) == {
        task: near(figures) for task, figures in evaluations[best]["figures"].items()
    }


def test_the_best_may_be_that_of_a_metric_of_one_task(recon, config):
    given = parts(train={"epochs": 8, "best": "right/accuracy"}, optimizer={"target": "SGD", "kwargs": {"lr": 1.0}})
    recon("train", config(**given), "-o", "out").succeeds()
    evaluations = log(SEED_0, "evaluation")
    values = [line["figures"]["right"]["accuracy"] for line in evaluations]
    assert len(set(values)) > 1
    # The first of equals.
    assert document(SEED_0 / "training.json")["best"]["step"] == evaluations[values.index(max(values))]["step"]


def test_iterations_may_end_within_an_epoch_and_evaluations_count_steps(recon, config):
    given = parts(train={"iterations": 12, "evaluate_every": 5, "log_every": 4}, optimizer=SGD_MOMENTUM)
    recon("train", config(**given), "-o", "out").succeeds()
    events = [(line["step"], line["epoch"], line["event"]) for line in log(SEED_0)]
    assert events == [
        (4, 0, "steps"),
        (5, 0, "evaluation"),
        (5, 1, "epoch"),
        (8, 1, "steps"),
        (10, 1, "evaluation"),
        (10, 2, "epoch"),
        (12, 2, "steps"),
        (12, 2, "evaluation"),
    ]  # fmt: skip
    assert (document(SEED_0 / "training.json")["steps"], document(SEED_0 / "training.json")["epochs"]) == (12, 2)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_epochs_may_be_evaluated_now_and_then_and_the_last_is(recon, config, accumulate):
    given = parts(train={"epochs": 5, "evaluate_every": 2}, optimizer={**SGD_MOMENTUM, "accumulate": accumulate})
    recon("train", config(**given), "-o", "out").succeeds()
    steps = -(-5 // accumulate)
    assert [(line["step"], line["epoch"]) for line in log(SEED_0, "evaluation")] == [
        (2 * steps, 2),
        (4 * steps, 4),
        (5 * steps, 5),
    ]
    assert [line["step"] for line in log(SEED_0, "epoch")] == [steps * epoch for epoch in range(1, 6)]


def test_the_command_line_goes_before_the_config(recon, config):
    path = config(**parts())
    recon("train", path, "-o", "a", "--epochs", 1).succeeds()
    assert document(Path("a/seed-0/training.json"))["steps"] == 5
    recon("train", path, "-o", "b", "--iterations", 2, "--method", "pcgrad").succeeds()
    saved = document(Path("b/seed-0/training.json"))
    assert (saved["steps"], saved["method"]["name"]) == (2, "pcgrad")


def bits_of_a_product(output: torch.Tensor, label: torch.Tensor) -> float:
    return torch.finfo((torch.ones(2, 2) @ torch.ones(2, 2)).dtype).bits


bits_of_a_product.higher_is_better = True


def test_metrics_compute_in_their_own_precision(recon, config):
    metrics = ["accuracy", f"{__name__}:bits_of_a_product"]
    path = config(**parts(tasks=tasks(metrics=metrics), precision="bfloat16", train={"iterations": 1}))
    recon("train", path, "-o", "out").succeeds()
    (line,) = log(SEED_0, "evaluation")
    assert [figures["bits_of_a_product"] for figures in line["figures"].values()] == [32, 32]
