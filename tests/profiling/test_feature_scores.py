"""What a profile says of shared representations, in somebody's own loop and from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recon_cli.errors import ReconError
from recon_cli.profiling.cosines import cosines
from recon_cli.profiling.profiler import ConflictProfiler
from tests.conftest import read_scores
from tests.gradients.test_features import compute, entropy, make, stacked


def train(profiler: ConflictProfiler, model: nn.Module, present=(("0", "1", "2"),) * 8, start: int = 0) -> list:
    """Steps with these tasks; gives dL_i/dZ of every step's tasks."""
    found = []
    for step, tasks in enumerate(present, start):
        x = torch.randn(4, 1, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        reference = dict(zip("012", compute(model, x), strict=True))
        found.append(stacked([torch.autograd.grad(reference[t], model.seen[-1], retain_graph=True)[0] for t in tasks]))
        losses = dict(zip("012", compute(model, x), strict=True))
        profiler.backward({task: losses[task] for task in tasks})
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
                parameter.grad = None
    return found


def test_scores_hold_the_means_over_the_steps_of_each_stage():
    model, _ = make("linear")
    profiler = ConflictProfiler(model, list("012"), steps=8, every=1, stages=2, features=["pool"])
    steps = train(profiler, model)
    scores = profiler.scores()
    (feature,) = scores.features
    assert (feature.name, feature.tasks) == ("pool", ("0", "1", "2"))
    for stage, rows in ((1, steps[:4]), (2, steps[4:]), (None, steps)):
        expected = [entropy(step.numpy()) for step in rows]
        assert scores.fd(feature, stage) == pytest.approx(np.mean([e[0] for e in expected]), rel=1e-12)
        cosine = torch.stack([cosines(step @ step.T) for step in rows])
        assert scores.gds(feature, stage) == pytest.approx(float(cosine.mean()), rel=1e-10)
        assert scores.conflicts(feature, -0.1, stage) == int((cosine < -0.1).sum())
        norms = torch.stack([step.norm(dim=1) for step in rows]).mean(0)
        assert scores.norms(feature, stage) == pytest.approx(norms.tolist(), rel=1e-10)
    positions = sum(stage.positions for stage in feature.stages)
    silent = sum(stage.silent_positions for stage in feature.stages)
    assert (positions, silent) == tuple(np.sum([entropy(step.numpy())[1:] for step in steps], axis=0))
    # Layers and trunk are those of a profile without features.
    plain, _ = make("linear")
    without = ConflictProfiler(plain, list("012"), steps=8, every=1, stages=2)
    train(without, plain)
    assert without.scores().layers == scores.layers
    assert without.scores().trunk == scores.trunk
    assert without.scores().features == ()


def test_fd_is_over_the_tasks_that_are_there():
    model, _ = make("linear")
    profiler = ConflictProfiler(model, list("012"), every=1, features=["pool"])
    present = [("0", "2"), ("1",), ("0", "1", "2"), ("1", "2")]
    steps = train(profiler, model, present)
    (feature,) = profiler.scores().features
    expected = [entropy(step.numpy())[0] for step in steps if len(step) > 1]
    assert feature.stages[0].fd_iterations == 3
    assert profiler.scores().fd(feature) == pytest.approx(np.mean(expected), rel=1e-12)
    assert feature.stages[0].pairs == 1 + 0 + 3 + 1


def test_a_step_whose_gradients_are_not_finite_is_left_out():
    model, x = make("linear")
    profiler = ConflictProfiler(model, list("012"), every=1, features=["pool"])
    first, second, third = compute(model, x)
    profiler.backward({"0": first, "1": second, "2": third + (third - third.detach()).abs().sqrt()})
    model.zero_grad()
    stage = profiler.scores().features[0].stages[0]
    assert (stage.fd, stage.fd_iterations, stage.positions) == (None, 0, 0)
    assert (stage.pairs, stage.non_finite) == (1, 2)


def test_a_profile_with_features_goes_on_from_its_state():
    whole, halved = make("linear")[0], make("linear")[0]
    one = ConflictProfiler(whole, list("012"), every=1, features=["pool"])
    train(one, whole)
    two = ConflictProfiler(halved, list("012"), every=1, features=["pool"])
    train(two, halved, [("0", "1", "2")] * 5)
    three = ConflictProfiler(halved, list("012"), every=1, features=["pool"])
    three.load_state_dict(two.state_dict())
    train(three, halved, [("0", "1", "2")] * 3, start=5)
    assert three.scores().to_bytes() == one.scores().to_bytes()
    with pytest.raises(ReconError, match="features"):
        ConflictProfiler(halved, list("012"), every=1, features=["act"]).load_state_dict(two.state_dict())


def test_a_feature_that_is_not_shared_is_refused_at_the_first_full_step():
    model, x = make("linear")
    for name, message in (("heads.1", "the loss of `1` alone reaches"), ("heads", "no loss reaches")):
        profiler = ConflictProfiler(model, list("012"), every=1, features=[name])
        with pytest.raises(ReconError, match=message):
            profiler.backward(dict(zip("012", compute(model, x), strict=True)))


def test_recon_profile_writes_and_shows_fd(recon, config):
    path = config(profile={"iterations": 6, "stages": 2, "features": ["body", "norm"]})
    run = recon("profile", path, "-o", "s.json").succeeds()
    scores = read_scores(Path("s.json"))
    assert [feature.name for feature in scores.features] == ["body", "norm"]
    for feature in scores.features:
        assert feature.tasks == ("left", "right")
        assert 0 < scores.fd(feature) <= math.log(2)
        assert [stage.fd_iterations for stage in feature.stages] == [3, 3]
        assert f"at {feature.name}: FD {scores.fd(feature):.3f} (0 to 0.693)" in " ".join(run.out.split())
    recon("rank", "s.json", "-o", "r.json").succeeds()


def test_recon_profile_refuses_a_feature_before_it_writes_anything(recon, config):
    for names, message in ((["bodi"], "did you mean `body`?"), (["heads.left"], "`left` alone reaches")):
        path = config(profile={"iterations": 4, "features": names})
        recon("profile", path, "-o", "s.json").refuses(message)
        assert not [*path.parent.glob("s*.json")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fd": 0.7}, "above the logarithm"),
        ({"fd": None}, "`fd` is there exactly where"),
        ({"fd_iterations": 0, "fd": None}, "positions without an iteration"),
        ({"fd_iterations": 9}, "more iterations than its stage has"),
    ],
)
def test_scores_with_an_impossible_fd_are_refused(recon, config, changes, message):
    recon("profile", config(profile={"iterations": 2, "stages": 1, "features": ["body"]}), "-o", "s.json").succeeds()
    document = json.loads(Path("s.json").read_text())
    document["features"][0]["stages"][0].update(changes)
    Path("s.json").write_text(json.dumps(document))
    recon("rank", "s.json", "-o", "r.json").refuses(message)
