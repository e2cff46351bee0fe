"""Profiles on halves of batches, against autograd in float64 and profiles without."""

from __future__ import annotations

import itertools
import json
import math
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError
from recon_cli.experiment.ranks import Ranks
from recon_cli.profiling.halves import count_on_halves
from recon_cli.updating import half_batches
from recon_cli.updating.half_batches import HalfBatches
from recon_cli.updating.ways.way import Measured
from tests import networks
from tests.conftest import read_scores
from tests.profiling import test_resume
from tests.torchrun import finish, torchrun

SEVERITIES = [0.0, -0.1, -0.3]
LAYERS = ("trunk.0", "trunk.2")
LEARNING_RATE = 0.3


def partial(**profile):
    """The parts of a config in which tasks are missing from batches of 6 items, in float64."""
    return {
        "model": {"target": "tests.networks:ThreeTasks"},
        "tasks": [{"name": task, "loss": "cross_entropy", "label": task} for task in "abc"],
        "data": {"target": "tests.networks:partial_batches"},
        "optimizer": {"target": "SGD", "kwargs": {"lr": LEARNING_RATE}},
        "profile": {"iterations": len(networks.PRESENT), "severities": SEVERITIES, "stages": 2, **profile},
    }


def restless(**profile):
    """The parts of a config whose network has dropout, batch statistics, and buffers that come and go."""
    parts = test_resume.parts(**profile)
    parts["tasks"] = [{"name": task, "loss": "cross_entropy", "label": task} for task in ("left", "right")]
    return parts


def gradients(model: nn.Module, inputs, targets, tasks, part: slice) -> dict[str, dict[str, torch.Tensor]]:
    """Layer -> task -> gradient, of the items in a slice alone."""
    outputs = model(inputs["x"][part], inputs["tasks"])
    found = {name: {} for name in (*LAYERS, "all")}
    for task in tasks:
        loss = F.cross_entropy(outputs[task], targets[task][part])
        for name in LAYERS:
            weights = list(model.get_submodule(name).parameters())
            found[name][task] = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)])
        found["all"][task] = torch.cat([found[name][task] for name in LAYERS])
    return found


def reference():
    """Of each step and layer, the cosines of the pairs with and without samples in common."""
    torch.manual_seed(0)
    model = networks.ThreeTasks()
    steps = []
    for (inputs, targets), tasks in zip(networks.partial_batches(), networks.PRESENT, strict=True):
        a, b = (gradients(model, inputs, targets, tasks, part) for part in (slice(3), slice(3, 6)))
        step = {}
        for name in (*LAYERS, "all"):
            kinds: dict[str, list[float]] = {"same": [], "cross": []}
            for one, two in itertools.combinations(tasks, 2):
                for kind, x, y in (("same", a, a), ("same", b, b), ("cross", a, b), ("cross", b, a)):
                    kinds[kind].append(float(F.cosine_similarity(x[name][one], y[name][two], dim=0, eps=0)))
            step[name] = kinds
        steps.append(step)
        outputs = model(**inputs)
        loss = sum(F.cross_entropy(outputs[task], targets[task]) for task in tasks) / len(tasks)
        moving = list(model.parameters())
        for weight, gradient in zip(moving, torch.autograd.grad(loss, moving, allow_unused=True), strict=True):
            if gradient is not None:
                weight.data -= LEARNING_RATE * gradient
    return steps


def below(steps, name: str, kind: str) -> tuple[int, ...]:
    return tuple(sum(cosine < severity for step in steps for cosine in step[name][kind]) for severity in SEVERITIES)


@pytest.mark.parametrize("every", [1, 2])
def test_counts_are_those_of_separate_passes_on_the_halves(recon, config, every):
    recon("profile", config(**partial(halves_every=every)), "-o", "s.json").succeeds()
    scores = read_scores(Path("s.json"))
    steps = reference()
    chosen = range(0, len(steps), every)
    assert scores.halves.model_dump() == {"every": every, "iterations": len(chosen), "skipped": 0}
    # Step 4 of 7 is the first that lies in the second of two stages.
    stages = [[steps[step] for step in chosen if step < 4], [steps[step] for step in chosen if step >= 4]]
    parts = [(layer.name, layer.stages, layer.series) for layer in scores.layers]
    differ = False
    for name, found, series in [*parts, ("all", scores.trunk, scores.trunk_series)]:
        for stage, expected in zip(found, stages, strict=True):
            assert stage.halves.pairs == sum(len(step[name]["same"]) for step in expected)
            assert stage.halves.same == below(expected, name, "same")
            assert stage.halves.cross == below(expected, name, "cross")
            differ |= stage.halves.same != stage.halves.cross
        # A window for every iteration, and nothing in those that were not measured in halves.
        for place, step in enumerate(steps):
            expected = [step] if place in chosen else []
            assert tuple(row[place] for row in series.halves.same) == below(expected, name, "same")
            assert tuple(row[place] for row in series.halves.cross) == below(expected, name, "cross")
    # Else it could not be told which is which.
    assert differ


def bare(scores: Path) -> dict:
    """The content of a scores file without what tells of halves."""

    def drop(part):
        if isinstance(part, dict):
            return {name: drop(each) for name, each in part.items() if name not in ("halves", "config_digest")}
        return [drop(each) for each in part] if isinstance(part, list) else part

    return drop(json.loads(scores.read_bytes()))


OPTIONS = [
    ([], {}),
    (["--save-cosines"], {"every": 3}),
    # It looks at the losses of the batch once more after the step.
    (["--method", "famo"], {}),
    pytest.param(["--method", "pcgrad"], {}, marks=pytest.mark.slow),
    pytest.param(["--method", "cosreg"], {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("options", "profile"), OPTIONS)
def test_nothing_else_changes_by_a_bit(recon, config, options, profile):
    recon("profile", config(**restless(**profile)), "-o", "without.json", *options).succeeds()
    path = config("halves.yaml", **restless(halves_every=2, **profile))
    recon("profile", path, "-o", "with.json", *options).succeeds()
    assert read_scores(Path("with.json")).halves.iterations > 3
    assert read_scores(Path("without.json")).halves is None
    # Numbers are written so that they are read as they were.
    assert bare(Path("with.json")) == bare(Path("without.json"))
    if "--save-cosines" in options:
        one, two = (load_file(f"{name}.cosines.safetensors") for name in ("with", "without"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name].nan_to_num(9), two[name].nan_to_num(9)) for name in one)


def test_a_pass_that_left_its_traces_would_be_seen(recon, config, monkeypatch):
    monkeypatch.setattr(half_batches, "leaving_no_trace", lambda _: nullcontext())
    recon("profile", config(**restless()), "-o", "without.json").succeeds()
    recon("profile", config("halves.yaml", **restless(halves_every=2)), "-o", "with.json").succeeds()
    assert bare(Path("with.json")) != bare(Path("without.json"))


@pytest.mark.parametrize("at", [5, 6, 13])
def test_a_profile_that_goes_on_keeps_the_counts(recon, config, monkeypatch, at):
    monkeypatch.setattr(networks.signal_loss, "calls", 0)
    path = config(**test_resume.parts(at=at, number=signal.SIGINT, halves_every=2))
    assert recon("profile", path, "-o", "s.json").code == 130
    recon("profile", path, "-o", "s.json", "--resume").succeeds()
    assert Path("s.json").read_bytes() == test_resume.uninterrupted(recon, path)
    assert read_scores(Path("s.json")).halves.iterations == test_resume.STEPS // 2


def test_a_batch_of_one_item_is_left_out_and_said_to_be(recon, config):
    data = {"target": "tests.networks:two_task_data", "batch_size": 8, "kwargs": {"size": 17}, "drop_last": False}
    model = {"target": "tests.networks:without_norm"}
    path = config(model=model, data=data, profile={"iterations": 9, "halves_every": 1})
    told = recon("profile", path, "-o", "s.json").succeeds()
    assert "3 of 9 batches that were to be measured in halves had but one item, and were not" in told.err
    assert read_scores(Path("s.json")).halves.model_dump() == {"every": 1, "iterations": 6, "skipped": 3}
    data["drop_last"] = True
    path = config(model=model, data=data, profile={"iterations": 9, "halves_every": 1})
    assert "had but one item" not in recon("profile", path, "-o", "s.json", "--force").succeeds().err


def test_a_batch_that_cannot_be_halved_is_refused(recon, config, tmp_path):
    (tmp_path / "odd.py").write_text(
        "import torch\nfrom tests.networks import TwoTasks, TwoTaskData\n"
        "class Net(TwoTasks):\n"
        "    def forward(self, x, edges):\n        return super().forward(x)\n"
        "def data():\n"
        "    d = TwoTaskData()\n"
        "    return [((d.images[:8], torch.zeros(2, 5)), {'left': d.left[:8], 'right': d.right[:8]})]\n"
    )
    parts = {"model": {"target": "odd:Net"}, "data": {"target": "odd:data"}}
    recon("profile", config(**parts), "-o", "s.json").succeeds()
    path = config(**parts, profile={"iterations": 6, "halves_every": 2})
    refused = recon("profile", path, "-o", "t.json")
    refused.refuses(
        "a batch cannot be halved: the inputs hold a tensor of shape (2, 5), not of 8 items", "halves_every"
    )
    assert not Path("t.json").exists()


def test_a_network_that_takes_no_smaller_batch_is_refused(recon, config, tmp_path):
    (tmp_path / "fixed.py").write_text(
        "from tests.networks import TwoTasks\n"
        "class Net(TwoTasks):\n"
        "    def forward(self, x):\n        return super().forward(x.view(8, 1, 5, 5))\n"
    )
    path = config(model={"target": "fixed:Net"}, profile={"iterations": 6, "halves_every": 2})
    recon("profile", path, "-o", "s.json").refuses("on the half of a batch: the model failed", "leave out")


def test_so_is_one_that_is_sharded():
    with pytest.raises(ReconError, match="sharded over several devices") as refusal:
        HalfBatches(SimpleNamespace(is_sharded=True), Measured(), Ranks())
    assert "halves_every" in refusal.value.hint


def test_a_training_that_measures_conflicts_measures_halves_too(recon, config):
    path = config(train={"iterations": 6, "conflicts": {"every": 2}}, profile={"halves_every": 3})
    recon("train", path, "-o", "out").succeeds()
    (file,) = Path("out").rglob("scores.json")
    assert read_scores(file).halves.model_dump() == {"every": 3, "iterations": 1, "skipped": 0}


def test_pairs_count_where_all_four_gradients_are_finite():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(1, 6, 10, generator=generator, dtype=torch.float64)
    grams = vectors @ vectors.mT
    reached = torch.ones(1, 6, dtype=torch.bool)
    severities = torch.tensor([1.0])
    assert count_on_halves(grams, reached, severities)["half_pairs"].tolist() == [6]
    for spoilt in range(6):
        # Of three tasks, one that is not there on one half leaves the two pairs of the other two.
        broken = grams.clone()
        broken[0, spoilt] = broken[0, :, spoilt] = math.nan
        missing = reached.clone()
        missing[0, spoilt] = False
        for found in (count_on_halves(broken, reached, severities), count_on_halves(grams, missing, severities)):
            assert [found[name].sum().item() for name in ("half_pairs", "same", "cross")] == [2, 2, 2]


def test_a_file_whose_counts_do_not_add_up_is_refused(recon, config):
    recon("profile", config(profile={"iterations": 6, "halves_every": 1}), "-o", "s.json").succeeds()
    content = json.loads(Path("s.json").read_bytes())
    for change, words in [
        (lambda layer: layer["stages"][0]["halves"].update(pairs=1000), "more pairs on halves"),
        (lambda layer: layer["stages"][0]["halves"].update(pairs=0, same=[1] * 9), "more conflicts on halves"),
        (lambda layer: layer["stages"][0]["halves"].update(cross=[0]), "one count on halves per severity"),
        (lambda layer: layer["series"]["halves"].update(pairs=[2, 2, 2, 2, 2, 3]), "the same on halves over time"),
        (lambda layer: layer["series"]["halves"].update(pairs=[2]), "equally many windows"),
    ]:
        changed = json.loads(json.dumps(content))
        change(changed["layers"][0])
        Path("t.json").write_text(json.dumps(changed))
        recon("inspect", "t.json").refuses(words)


def test_the_counts_are_shown(recon, config):
    recon("profile", config(profile={"iterations": 6, "halves_every": 2}), "-o", "s.json").succeeds()
    assert "measured in 3 steps" in recon("inspect", "s.json").succeeds().out
    frame = Scores.read("s.json").to_pandas()
    assert frame["half_pairs"].sum() == 6 * len(set(frame["layer"]))
    assert {"same_-0.1", "cross_-0.1"} <= set(frame.columns)


@pytest.mark.slow
def test_ranks_count_the_halves_of_all_of_them_together(recon, config, tmp_path):
    parts = {"model": {"target": "tests.networks:without_norm"}}
    data = {"target": "tests.networks:two_task_data", "kwargs": {"size": 40}, "shuffle": False}
    profile = {"iterations": 5, "halves_every": 2}
    path = config("ranks.yaml", **parts, data={**data, "batch_size": 4}, profile=profile)
    code, _, err = finish(torchrun(tmp_path, 2, "profile", path, "-o", "r.json"))
    assert code == 0, err
    # One process whose batches hold the first halves of both ranks, and then the second ones.
    (tmp_path / "both.py").write_text(
        "import torch\nfrom tests.networks import TwoTaskData\n"
        "def data():\n"
        "    d, order = TwoTaskData(40), torch.tensor([0, 1, 4, 5, 2, 3, 6, 7])\n"
        "    return [(d.images[order + s], {'left': d.left[order + s], 'right': d.right[order + s]}) "
        "for s in range(0, 40, 8)]\n"
    )
    path = config("alone.yaml", **parts, data={"target": "both:data"}, profile=profile)
    recon("profile", path, "-o", "a.json").succeeds()
    ranks, alone = read_scores(Path("r.json")), read_scores(Path("a.json"))
    assert ranks.halves == alone.halves
    for mine, theirs in zip(ranks.layers, alone.layers, strict=True):
        assert [stage.halves for stage in mine.stages] == [stage.halves for stage in theirs.stages]
