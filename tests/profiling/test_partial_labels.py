"""Batches in which some tasks have no labels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests import networks
from tests.conftest import read_scores

SEVERITIES = [0.0, -0.1, -0.3]
LAYERS = ("trunk.0", "trunk.2")
LEARNING_RATE = 0.3


def parts(*, absent: str = "none", keys: bool = True, partial: bool = False, present=networks.PRESENT, **profile):
    """The parts of a config that profiles the partial batches."""
    return {
        "model": {"target": "tests.networks:ThreeTasks", "kwargs": {"absent": absent}},
        "tasks": [{"name": task, "loss": "cross_entropy", "label": task, "partial": partial} for task in "abc"],
        "data": {"target": "tests.networks:partial_batches", "kwargs": {"present": list(present), "keys": keys}},
        "optimizer": {"target": "SGD", "kwargs": {"lr": LEARNING_RATE}},
        "profile": {"iterations": len(present), "severities": SEVERITIES, **profile},
    }


Step = dict[str, dict[str, float]]
"""The cosines of one step, by layer and pair of tasks."""


def reference_cosines() -> list[Step]:
    """The cosines of every step, by plain training with an update of our own."""
    torch.manual_seed(0)
    model = networks.ThreeTasks()
    steps = []
    for (inputs, targets), tasks in zip(networks.partial_batches(), networks.PRESENT, strict=True):
        outputs = model(**inputs)
        losses = {task: F.cross_entropy(outputs[task], targets[task]) for task in tasks}
        step: Step = {}
        for name in LAYERS:
            weights = list(model.get_submodule(name).parameters())
            gradients = {
                task: torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)])
                for task, loss in losses.items()
            }
            step[name] = {
                one + two: float(F.cosine_similarity(gradients[one], gradients[two], dim=0, eps=0))
                for one, two in itertools.combinations(tasks, 2)
            }
        steps.append(step)
        mean = sum(losses.values()) / len(losses)
        moving = list(model.parameters())
        for weight, gradient in zip(moving, torch.autograd.grad(mean, moving, allow_unused=True), strict=True):
            if gradient is not None:
                weight.data -= LEARNING_RATE * gradient
    return steps


@pytest.mark.parametrize("absent", ["there", "none", "left out"])
@pytest.mark.parametrize(("keys", "partial"), [(True, False), (False, True), (True, True)])
def test_pairs_count_where_both_tasks_have_labels(recon, config, absent, keys, partial):
    recon("profile", config(**parts(absent=absent, keys=keys, partial=partial)), "-o", "s.json").succeeds()
    scores = read_scores(Path("s.json"))
    assert [layer.name for layer in scores.layers] == list(LAYERS)
    assert scores.task_iterations == tuple(sum(task in there for there in networks.PRESENT) for task in "abc")
    for layer in scores.layers:
        reference = [cosine for step in reference_cosines() for cosine in step[layer.name].values()]
        assert scores.pairs(layer) == len(reference)
        for severity in SEVERITIES:
            assert scores.conflicts(layer, severity) == sum(cosine < severity for cosine in reference)


def test_steps_that_are_not_measured_leave_the_same_tasks_out(recon, config):
    # The last of seven steps is measured after five that were not.
    recon("profile", config(**parts(every=6, stages=7)), "-o", "few.json").succeeds()
    recon("profile", config(**parts(stages=7)), "-o", "all.json").succeeds()
    few, every = read_scores(Path("few.json")), read_scores(Path("all.json"))
    assert few.iterations == 2
    for one, two in zip(few.layers, every.layers, strict=True):
        assert one.stages[6].histogram == two.stages[6].histogram
        assert one.stages[6].gds == pytest.approx(two.stages[6].gds, abs=1e-5)
        assert one.stages[6].norms == pytest.approx(two.stages[6].norms, rel=1e-5)


def test_a_key_that_is_missing_unasked_is_an_error_that_says_what_to_do(recon, config):
    result = recon("profile", config(**parts(keys=False)), "-o", "s.json")
    result.refuses("task `b`: the batch has no label `b`; it has `a`, `c`", "`partial: true`")


def test_a_batch_without_any_label_is_an_error(recon, config):
    recon("profile", config(**parts(present=["abc", ""])), "-o", "s.json").refuses("no label for any of the tasks")
    assert read_scores(Path("s.partial.json")).iterations == 1


def test_a_task_with_a_label_has_to_have_an_output(recon, config):
    given = parts()
    given["model"] = {"target": "tests.networks:WithoutOutput"}
    recon("profile", config(**given), "-o", "s.json").refuses("has no key `c`")


def test_a_task_that_never_has_a_label_is_warned_of(recon, config):
    result = recon("profile", config(**parts(present=["ab", "b"])), "-o", "s.json").succeeds()
    assert "warning: task `c` had no label in any batch" in result.err
    assert {layer.tasks for layer in read_scores(Path("s.json")).layers} == {("a", "b")}


def test_a_task_that_the_sampling_passes_over_is_warned_of(recon, config):
    result = recon("profile", config(**parts(present=["ab", "bc"] * 2, every=2)), "-o", "s.json").succeeds()
    assert "warning: task `c` had labels, but in none of the steps that were measured" in result.err


@pytest.mark.parametrize(
    ("network", "present", "words"),
    [
        # All tasks are there in the third step, which decides it.
        ("UnsharedThree", ["ab", "c", "abc", "ab"], "no layer is shared by two tasks"),
        # Nothing is certain before the end.
        ("UnsharedThree", ["ab", "c", "bc"], "no layer is shared by two tasks"),
        ("ThreeTasks", ["a", "b", "c"], "no measured step had two tasks that share a layer"),
    ],
)
def test_what_cannot_be_ranked_is_refused(recon, config, tmp_path, network, present, words):
    given = parts(present=present, every=1, iterations=10**9 if len(present) == 4 else 3)
    given["model"] = {"target": f"tests.networks:{network}"}
    recon("profile", config(**given), "-o", "s.json").refuses(words)
    assert not list(tmp_path.glob("s.*"))


def test_the_order_in_which_tasks_appear_does_not_decide_which_layers_are_shared(recon, config):
    recon("profile", config(**parts(present=["c", "ab", "bc", "a", "abc"])), "-o", "s.json").succeeds()
    assert [layer["name"] for layer in json.loads(Path("s.json").read_text())["layers"]] == list(LAYERS)
