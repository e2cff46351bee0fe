"""A profile that stops when the first layers of the ranking have settled."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from recon_cli import ConflictProfiler
from recon_cli.config.loading import load_config
from recon_cli.errors import ReconError
from recon_cli.profiling.run import ProfileRequest, profile
from recon_cli.profiling.settling import is_checked
from recon_cli.ranking.stability import rank_with_stability
from recon_cli.runs.observer import Nobody
from tests.conftest import read_scores
from tests.torchrun import finish, torchrun

CLEAR = (0.5, -1.0, 0.5)
CLOSE = (0.0, -0.1, 0.5)
EQUAL = (0.0, 0.0, 0.0)
APART = (1.0, -0.3, -2.0)
STEPS = 300


class Mixed(nn.Module):
    """A layer for each of these numbers; the gradient of its second task is that of its first times the number, plus
    noise of the same size.
    """

    def __init__(self, mixes) -> None:
        super().__init__()
        self.mixes = mixes
        self.layers = nn.ModuleList(nn.Linear(25, 1, bias=False) for _ in mixes)

    def forward(self, x):
        left, right = x.new_zeros(len(x), 1), x.new_zeros(len(x), 1)
        for mix, layer in zip(self.mixes, self.layers, strict=True):
            first, second = torch.randn(2, len(x), 25)
            left, right = left + layer(first), right + layer(mix * first + second)
        return {"left": left, "right": right}


def mean_output(output, target):
    return output.mean()


def signalling(output, target, *, at):
    """The same, with an interrupt in step `at`."""
    signalling.calls += 1
    if signalling.calls == at:
        signal.raise_signal(signal.SIGINT)
    return output.mean()


@pytest.fixture(autouse=True)
def _from_the_first_call(monkeypatch):
    monkeypatch.setattr(signalling, "calls", 0, raising=False)


@pytest.fixture
def mixed(config):
    """Write a config of such a network."""

    def write(mixes, name="recon.yaml", at=None, **profile):
        loss = "tests.profiling.test_settling:mean_output"
        noisy = {"target": "tests.profiling.test_settling:signalling", "kwargs": {"at": at}}
        return config(
            name,
            model={"target": "tests.profiling.test_settling:Mixed", "kwargs": {"mixes": mixes}},
            tasks=[
                {"name": "left", "loss": loss if at is None else noisy, "label": "left"},
                {"name": "right", "loss": loss, "label": "right"},
            ],
            profile={"iterations": STEPS, **profile},
        )

    return write


def test_it_stops_where_the_layers_differ_clearly_and_says_so(recon, mixed):
    result = recon("profile", mixed(CLEAR), "-o", "s.json", "--until-stable", 1).succeeds()
    assert f"have settled after 100 measured iterations, so it stops at step 100 of {STEPS}" in result.err
    assert f"stopped before step {STEPS}" in result.out
    scores = read_scores(Path("s.json"))
    assert (scores.complete, scores.steps, scores.steps_requested) == (True, 100, STEPS)
    assert (scores.iterations, scores.iterations_requested) == (100, STEPS)
    assert scores.stage_iterations == (75, 25, 0, 0)
    assert (scores.settled.k, scores.settled.severity) == (1, -0.1)
    stability = rank_with_stability(scores, 1).stability
    assert scores.settled.overlap == pytest.approx(stability.overlap)
    assert stability.overlap >= 0.9
    assert not Path("s.run").exists()


def test_what_was_not_measured_any_more_cannot_be_ranked_by(recon, mixed):
    recon("profile", mixed(CLEAR), "-o", "s.json", "--until-stable", 1).succeeds()
    assert "ended early" not in recon("rank", "s.json", "--stage", 2).succeeds().err
    recon("rank", "s.json", "--stage", 3).refuses("nothing was measured in stage 3, as the ranking had settled before")
    assert "the first 1 layer below cosine -0.1" in recon("inspect", "s.json").succeeds().out


def test_it_does_not_stop_where_layers_cannot_be_told_apart(recon, mixed):
    path = mixed(EQUAL)
    result = recon("profile", path, "-o", "s.json", "--until-stable", 1).succeeds()
    assert f"have not settled in {STEPS} measured iterations" in result.err
    recon("profile", path, "-o", "plain.json").succeeds()
    assert Path("s.json").read_bytes() == Path("plain.json").read_bytes()


def test_it_counts_the_steps_that_are_measured(recon, mixed):
    recon("profile", mixed(CLEAR), "-o", "s.json", "--until-stable", 1, "--iterations", 400, "--every", 3).succeeds()
    scores = read_scores(Path("s.json"))
    assert (scores.iterations, scores.steps) == (100, 298)


def test_it_is_not_looked_at_before_there_is_enough(recon, mixed):
    result = recon("profile", mixed(CLEAR), "-o", "s.json", "--until-stable", 1, "--iterations", 12).succeeds()
    assert "12 windows of time are too few" in result.err
    assert read_scores(Path("s.json")).settled is None


def test_the_config_says_it_as_well_and_options_go_before_it(recon, mixed):
    path = mixed(APART, until_stable={"top_k": 2, "severity": -0.05})
    for options, expected in (([], (2, -0.05)), (["--until-stable", 1], (1, -0.05)), (["-S", -0.2], (2, -0.2))):
        recon("profile", path, "-o", "s.json", "--force", "--iterations", 2000, *options).succeeds()
        settled = read_scores(Path("s.json")).settled
        assert (settled.k, settled.severity) == expected


def test_checks_lie_ever_further_apart():
    checks = [number for number in range(1, 1500) if is_checked(number)]
    assert checks[:4] == [100, 125, 157, 197]
    assert len(checks) == 13


@pytest.mark.parametrize("at", [40, 110, 130])
def test_one_that_was_interrupted_stops_with_the_same_bytes(recon, mixed, at):
    path = mixed(CLOSE, at=at, iterations=2000)
    assert recon("profile", path, "-o", "s.json", "--until-stable", 1).code == 130
    recon("profile", path, "-o", "s.json", "--until-stable", 1, "--resume").succeeds()
    recon("profile", path, "-o", "whole.json", "--until-stable", 1).succeeds()
    assert Path("s.json").read_bytes() == Path("whole.json").read_bytes()
    assert at < read_scores(Path("s.json")).steps < 2000


def test_one_that_is_interrupted_in_the_step_it_stops_at_goes_no_further(recon, mixed):
    request = ProfileRequest(load_config(mixed(CLEAR, at=100)), until_stable=1)
    with pytest.raises(KeyboardInterrupt):
        profile(request, Nobody(), Path("s.json"), more_follows=True)
    assert read_scores(Path("s.run/partial.json")).settled is not None
    assert profile(request, Nobody(), Path("s.json"), resume=True).steps == 100


def test_a_run_that_was_to_stop_by_other_layers_is_another_one(recon, mixed):
    path = mixed(CLOSE, at=40)
    assert recon("profile", path, "-o", "s.json", "--until-stable", 1).code == 130
    recon("profile", path, "-o", "s.json", "--resume").refuses("is another one: until_stable")
    recon("profile", path, "-o", "s.json", "--until-stable", 2, "--resume").refuses("is another one: until_stable")


@pytest.mark.parametrize("mixes", [APART, CLOSE, EQUAL])
def test_a_loop_can_stop_by_the_same_figure(mixes):
    torch.manual_seed(0)
    model = Mixed(mixes)
    profiler = ConflictProfiler(model, ["left", "right"], every=2)
    with pytest.raises(ReconError, match="too few"):
        profiler.backward({task: output.mean() for task, output in model(torch.zeros(8, 25)).items()})
        profiler.stability(1)
    for _ in range(250):
        profiler.backward({task: output.mean() for task, output in model(torch.zeros(8, 25)).items()})
    for k in (1, 2):
        for severity in (-0.1, -0.05):
            expected = rank_with_stability(profiler.scores(), k, severity).stability.overlap
            assert profiler.stability(k, severity) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ReconError, match="the first 3 layers cannot settle: 3 are shared"):
        profiler.stability(3)
    with pytest.raises(ReconError, match="conflicts below -0.33 are not counted"):
        profiler.stability(1, -0.33)


@pytest.mark.slow
def test_ranks_stop_at_the_same_step(mixed, tmp_path):
    code, _, err = finish(torchrun(tmp_path, 2, "profile", mixed(CLEAR), "-o", "r.json", "--until-stable", 1))
    assert code == 0, err
    assert err.count("have settled after 100") == 1, err
    assert read_scores(tmp_path / "r.json").steps == 100
    command = ("profile", mixed(CLEAR), "-o", "n.json", "--until-stable", 3)
    code, _, err = finish(torchrun(tmp_path, 2, *command))
    assert code != 0
    assert err.count("the first 3 layers cannot settle") == 1, err


@pytest.mark.parametrize(
    ("section", "options", "words"),
    [
        ({}, ["--until-stable", 3], ["the first 3 layers cannot settle: 3 are shared"]),
        ({}, ["-S", -0.1], ["--severity says by which conflicts", "--until-stable K"]),
        ({}, ["--until-stable", 1, "-S", -0.3], ["below -0.3, which are not counted", "-0.05"]),
        ({}, ["--until-stable", 1, "-S", 0.3], ["severity"]),
        ({"severities": [0.0]}, ["--until-stable", 1], ["below -0.1, which are not counted"]),
        ({"until_stable": {"top_k": 0}}, [], ["profile.until_stable.top_k"]),
        ({"until_stable": {}}, [], ["profile.until_stable.top_k"]),
        ({"until_stable": {"top_k": 1, "severity": -0.3}}, [], ["profile", "which are not counted"]),
    ],
)
def test_what_cannot_be_is_refused_before_long(recon, mixed, section, options, words):
    recon("profile", mixed(CLEAR, **section), "-o", "s.json", *options).refuses(*words)
    assert not Path("s.json").exists()


def test_scores_that_contradict_themselves_are_refused(recon, mixed):
    recon("profile", mixed(CLEAR), "-o", "s.json", "--until-stable", 1).succeeds()
    content = json.loads(Path("s.json").read_text())
    for change in ({"complete": False}, {"settled": {**content["settled"], "k": 3}}):
        Path("t.json").write_text(json.dumps({**content, **change}))
        recon("rank", "t.json").refuses("settled")
