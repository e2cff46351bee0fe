"""`recon train --manifest`: branched networks."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader

from recon_cli.branching.manifests import read_record
from recon_cli.branching.runtime.module import branch
from recon_cli.checkpoints.state_dict import load_into
from tests import networks
from tests.conftest import read_scores
from tests.training.by_hand import TASKS, evaluate, seed_all
from tests.training.folders import document, log, parts, weights
from tests.training.test_equals_a_loop import DATA, EPOCHS, VALIDATION, near

FORMS = ("branched.safetensors", "branched.manifest.json", "plan.json")
LAST = Path("out/seed-0/last.safetensors")
RATE = 0.3


@pytest.fixture
def split(recon, config, checkpoint, ranking):
    """The names of two layers that are split, in every form that says so."""
    chosen = ["split", checkpoint, "--ranking", ranking, "--top-k", 2]
    recon(*chosen, "-o", "branched.safetensors").succeeds()
    Path("plan.json").write_text(recon(*chosen, "--dry-run", "--json").succeeds().out)
    return tuple(layer.name for layer in read_record(Path("plan.json")).layers)


@pytest.fixture
def path(config, split):
    """A config of a training whose steps are large; written after that of the split."""
    return config(**parts(optimizer={"target": "SGD", "kwargs": {"lr": RATE}}))


def two_networks(split: tuple[str, ...], start: nn.Module) -> dict[str, nn.Module]:
    """A network for each task, whose parameters are the same but in split layers."""
    left, right = copy.deepcopy(start), copy.deepcopy(start)
    for name, module in right.named_modules():
        if name not in split:
            for key in module._parameters:
                module._parameters[key] = left.get_submodule(name)._parameters[key]
    return {"left": left, "right": right}


def train_both(models: dict[str, nn.Module], epochs: int = EPOCHS) -> list[dict[str, dict[str, float]]]:
    """Train them together on the mean of the losses; their evaluations."""
    parameters = {id(p): p for model in models.values() for p in model.parameters()}
    optimizer = SGD(parameters.values(), lr=RATE)
    loader = DataLoader(DATA, batch_size=8, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0))
    figures = []
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            sum(F.cross_entropy(models[task](images)[task], labels[task]) / 2 for task in TASKS).backward()
            optimizer.step()
        figures.append({task: evaluate(models[task], VALIDATION, 8, None)[task] for task in TASKS})
    return figures


def extracted(recon, branched: Path = LAST) -> dict[str, dict[str, torch.Tensor]]:
    for task in TASKS:
        recon("extract", branched, "--task", task, "-o", f"{task}.safetensors", "--force").succeeds()
    return {task: weights(Path(f"{task}.safetensors")) for task in TASKS}


def assert_trained_so(recon, models: dict[str, nn.Module], figures: list[dict[str, dict[str, float]]]) -> None:
    for task, found in extracted(recon).items():
        for name, value in models[task].state_dict().items():
            # The heads of other tasks are not this task's.
            if not name.startswith("heads.") or task in name:
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=f"{task} {name}")
    lines = [line["figures"] for line in log(LAST.parent, "evaluation")]
    for mine, theirs in zip(lines, figures, strict=True):
        assert mine == {task: pytest.approx(figures, rel=1e-4) for task, figures in theirs.items()}


@pytest.mark.parametrize("form", [FORMS[0], pytest.param(FORMS[1], marks=pytest.mark.slow)])
def test_branched_from_scratch_it_is_two_networks_that_share_what_is_not_split(recon, path, split, form):
    recon("train", path, "-o", "out", "--manifest", form).succeeds()
    seed_all(0)
    models = two_networks(split, networks.two_tasks())
    start = copy.deepcopy(models["left"])
    assert_trained_so(recon, models, train_both(models))
    for layer in split:
        own = [models[task].get_submodule(layer).weight for task in TASKS]
        assert not torch.allclose(own[0], own[1], rtol=1e-3)
        assert not torch.allclose(own[0], start.get_submodule(layer).weight, rtol=1e-3)
    saved = document(LAST.parent / "training.json")
    assert saved["split_layers"] == 2
    sizes = [sum(p.numel() for p in models["left"].get_submodule(layer).parameters()) for layer in split]
    assert saved["parameters"] == sum(p.numel() for p in start.parameters()) + sum(sizes)
    plain = recon("train", path, "-o", "plain").succeeds()
    assert plain.out
    assert saved["operations"] > document(Path("plain/seed-0/training.json"))["operations"]


def test_every_form_of_a_manifest_trains_the_same_network(recon, path, split):
    for form in FORMS:
        recon("train", path, "-o", f"by-{form}", "--manifest", form).succeeds()
    first, *others = (weights(Path(f"by-{form}/seed-0/last.safetensors")) for form in FORMS)
    for other in others:
        assert first.keys() == other.keys()
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("named", ["--checkpoint", "model.checkpoint"])
def test_it_starts_from_branched_weights_or_branches_those_that_the_config_names(
    recon, config, path, split, checkpoint, named
):
    options = ["--checkpoint", "branched.safetensors"] if named == "--checkpoint" else []
    if not options:
        model = {"target": "tests.networks:two_tasks", "checkpoint": checkpoint.name}
        path = config(**parts(optimizer={"target": "SGD", "kwargs": {"lr": RATE}}, model=model))
    recon("train", path, "-o", "out", "--manifest", "branched.safetensors", *options).succeeds()
    seed_all(0)
    start = networks.two_tasks()
    load_into(start, checkpoint)
    models = two_networks(split, start)
    assert_trained_so(recon, models, train_both(models))


def test_branched_weights_without_their_manifest_are_refused_with_the_way_out(recon, path, split):
    recon("train", path, "-o", "out", "--checkpoint", "branched.safetensors").refuses(
        "`branched.safetensors` does not fit the model", "takes it with --manifest as well"
    )
    assert not Path("out").exists()


def test_a_folder_of_shards_is_a_checkpoint_and_another_shard_another_training(recon, path, checkpoint):
    state = load_file(checkpoint)
    shards = {f"model-{place}.safetensors": {key: state[key]} for place, key in enumerate(sorted(state))}
    folder = Path("start")
    folder.mkdir()
    for name, part in shards.items():
        save_file(part, folder / name)
    weight_map = {key: name for name, part in shards.items() for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    recon("train", path, "-o", "whole", "--checkpoint", checkpoint, "--epochs", 1).succeeds()
    recon("train", path, "-o", "out", "--checkpoint", folder, "--epochs", 1).succeeds()
    whole, sharded = weights(Path("whole/seed-0/last.safetensors")), weights(LAST)
    assert all(torch.equal(whole[name], value) for name, value in sharded.items())
    again = ["train", path, "-o", "out", "--checkpoint", folder, "--epochs", 1, "--resume"]
    recon(*again).succeeds()
    name, part = next(iter(shards.items()))
    save_file({key: value + 1 for key, value in part.items()}, folder / name)
    recon(*again).refuses("checkpoint")


def test_a_branched_training_goes_on_from_branched_weights_of_an_earlier_one(recon, config, path, split):
    recon("train", path, "-o", "first", "--manifest", "plan.json", "--epochs", 2).succeeds()
    start = Path("first/seed-0/last.safetensors")
    still = config(**parts(optimizer={"target": "SGD", "kwargs": {"lr": 0.0}}))
    recon("train", still, "-o", "out", "--manifest", "plan.json", "--checkpoint", start, "--epochs", 1).succeeds()
    before, after = weights(start), weights(LAST)
    assert before.keys() == after.keys()
    parameters = [name for name, _ in branch(networks.two_tasks(), read_record(Path("plan.json"))).named_parameters()]
    assert all(torch.equal(before[name], after[name]) for name in parameters)


def test_copies_begin_equal_unless_they_are_to_begin_anew(recon, config, split):
    still = config(**parts(optimizer={"target": "SGD", "kwargs": {"lr": 0.0}}))
    recon("train", still, "-o", "out", "--manifest", "branched.manifest.json").succeeds()
    equal = extracted(recon)
    recon("train", still, "-o", "out", "--manifest", "branched.manifest.json", "--reinitialise", "--force").succeeds()
    anew = extracted(recon)
    assert document(LAST.parent / "training.json")["reinitialised"] is True
    # Those of the norm begin with ones and zeros every time.
    drawn = [name for name in equal["left"] if name.rpartition(".")[0] in set(split) - {"norm"}]
    assert drawn
    for name, value in equal["left"].items():
        if "running" not in name:
            assert torch.equal(value, equal["right"][name]), name
            assert torch.equal(value, anew["left"][name]), name
        if name in drawn:
            assert not torch.equal(value, anew["right"][name]), name
        elif "running" not in name:
            assert torch.equal(value, anew["right"][name]), name


@pytest.mark.parametrize(
    "method", ["joint", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("pcgrad", "famo"))]
)
def test_a_branch_learns_from_its_task_alone(recon, config, split, method):
    """The right task's loss is constant zero times its output, so that what only it reaches stays as it was."""
    both = parts()["tasks"]
    both[1]["loss"] = {"target": "tests.networks:nothing_to_learn"}
    both[1]["metrics"] = []
    path = config(**parts(tasks=both, method=method, optimizer={"target": "SGD", "kwargs": {"lr": RATE}}))
    recon("train", path, "-o", "out", "--manifest", "branched.safetensors").succeeds()
    seed_all(0)
    start = networks.two_tasks().state_dict()
    found = extracted(recon)
    for layer in split:
        assert torch.equal(found["right"][f"{layer}.weight"], start[f"{layer}.weight"])
        assert not torch.equal(found["left"][f"{layer}.weight"], start[f"{layer}.weight"])


def test_what_is_written_can_be_inspected_and_joined_again(recon, path, split):
    recon("train", path, "-o", "out", "--manifest", "branched.safetensors").succeeds()
    for file in (LAST, LAST.with_name("best.safetensors")):
        shown = recon("inspect", file).succeeds().out
        assert all(layer in shown for layer in split)
    recon("unsplit", LAST, "-o", "shared.safetensors").refuses("branches of 2 layers", "--average")
    recon("unsplit", LAST, "-o", "shared.safetensors", "--average").succeeds()
    joined, of_task = weights(Path("shared.safetensors")), extracted(recon)
    assert joined.keys() == networks.two_tasks().state_dict().keys()
    for layer in split:
        mean = (of_task["left"][f"{layer}.weight"] + of_task["right"][f"{layer}.weight"]) / 2
        torch.testing.assert_close(joined[f"{layer}.weight"], mean)
    # Loading it needs no more than a manifest.
    model = branch(networks.two_tasks(), read_record(LAST))
    load_into(model, LAST)
    figures = {task: evaluate(model, VALIDATION, 8, None)[task] for task in TASKS}
    last = log(LAST.parent, "evaluation")[-1]["figures"]
    assert last == {task: near(values) for task, values in figures.items()}


def test_conflicts_of_what_is_still_shared_are_measured(recon, config, split):
    path = config(**parts(train={"epochs": 2, "conflicts": {"every": 1}}))
    recon("train", path, "-o", "out", "--manifest", "branched.safetensors").succeeds()
    scores = read_scores(LAST.parent / "scores.json")
    assert scores.iterations == 10
    names = {layer.name for layer in scores.layers}
    assert names
    assert not any(name == layer or name.startswith(f"{layer}.") for name in names for layer in split)


def test_several_seeds_and_resuming_work_for_branched_networks(recon, path, split):
    options = ["--manifest", "branched.safetensors", "--reinitialise", "--seeds", "0,1"]
    recon("train", path, "-o", "out", *options).succeeds()
    assert not torch.equal(*(weights(Path(f"out/seed-{seed}/last.safetensors"))["conv.weight"] for seed in (0, 1)))
    result = recon("train", path, "-o", "out", "--resume", *options).succeeds()
    assert "seed 0 was trained before" in result.err
    recon("train", path, "-o", "out", "--resume", "--seeds", "0,1").refuses("is another one", "manifest: sha256:")
    recon("train", path, "-o", "out", "--resume", *options[:2], "--seeds", "0,1").refuses("reinitialised: True there")


def test_a_manifest_of_other_tasks_is_refused(recon, config, split):
    both = parts()["tasks"]
    path = config(**parts(tasks=both[::-1]))
    refused = recon("train", path, "-o", "out", "--manifest", "branched.safetensors")
    refused.refuses("is of the tasks `left`, `right`, the config of `right`, `left`")
    assert not Path("out").exists()


def test_a_manifest_of_another_network_is_refused(recon, config, split):
    path = config(**parts(model={"target": "tests.networks:Unshared"}))
    recon("train", path, "-o", "out", "--manifest", "branched.safetensors").refuses()
    assert not Path("out").exists()


def test_plain_weights_are_no_start_of_a_branched_network(recon, path, split, checkpoint):
    options = ["--manifest", "branched.safetensors", "--checkpoint", checkpoint]
    recon("train", path, "-o", "out", *options).refuses("does not fit the model")
    recon("train", path, "-o", "out", "--manifest", checkpoint).refuses("carries no manifest")
    assert not Path("out").exists()
