"""The score of what two tasks' conflicts owe to the samples that they have in common."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_cli.artifacts.scores import HalvedIterations, Scores
from recon_cli.errors import ReconError
from recon_cli.profiling.tally import ConflictTally
from recon_cli.ranking.rank import rank
from recon_cli.ranking.stability import rank_with_stability
from tests.conftest import scores_of

SEVERITIES = (0.0, -0.1)
ITERATIONS = 160
SIZE = 60


def drawn(kind: str) -> np.ndarray:
    """[iterations, 4, d]: two tasks' gradients on one half and then on the other.

    With `samples` they are opposed by what they see, which is another thing on each half; with `always` by what
    they are.
    """
    generator = np.random.default_rng({"random": 4, "samples": 2, "always": 3}[kind])
    found = generator.normal(size=(ITERATIONS, 2, 2, SIZE))
    if kind == "samples":
        found[:, :, 1] -= found[:, :, 0]
    if kind == "always":
        against = 2 * generator.normal(size=SIZE)
        found[:, :, 0] += against
        found[:, :, 1] -= against
    return found.reshape(ITERATIONS, 4, SIZE)


KINDS = ("random", "samples", "always")


def rates(kind: str, severity: float, part: slice = slice(None)) -> tuple[float, float]:
    """The shares below a severity of the pairs with and without samples in common."""
    unit = drawn(kind)[part]
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    found = unit @ unit.transpose(0, 2, 1)
    same, cross = np.stack([found[:, 0, 1], found[:, 2, 3]]), np.stack([found[:, 0, 3], found[:, 1, 2]])
    return (same < severity).mean(), (cross < severity).mean()


@pytest.fixture(scope="module")
def measured() -> Scores:
    there = torch.ones(2, dtype=torch.bool)
    tallies = {}
    for kind in KINDS:
        tallies[kind] = ConflictTally(1, 2, 2, SEVERITIES, sizes=[SIZE], halves=True)
        for step, vectors in enumerate(drawn(kind)):
            whole = vectors[:2] + vectors[2:]
            grams = torch.tensor(vectors @ vectors.T)[None]
            on_halves = (grams, torch.ones(1, 4, dtype=torch.bool))
            tallies[kind].add(
                step * 2 // ITERATIONS, torch.tensor(whole @ whole.T)[None], there[None], there, on_halves=on_halves
            )
    halves = HalvedIterations(every=1, iterations=ITERATIONS, skipped=0)
    return scores_of(tallies, [ITERATIONS // 2] * 2, SEVERITIES, halves)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("stage", [None, 2])
def test_it_is_the_difference_of_the_two_rates(measured, severity, stage):
    part = slice(None) if stage is None else slice(ITERATIONS // 2, None)
    for layer in rank(measured, severity, stage, kind="coupled").layers:
        same, cross = rates(layer.name, severity, part)
        assert layer.score == pytest.approx(same - cross, abs=1e-12)


def test_only_conflicts_that_come_with_the_samples_are_coupled(measured):
    found = {layer.name: layer.score for layer in rank(measured, kind="coupled").layers}
    assert found["samples"] > 0.7
    assert abs(found["random"]) < 0.1
    # Tasks that are opposed on any data conflict always, and are not coupled.
    always = next(layer for layer in rank(measured, kind="probability").layers if layer.name == "always")
    assert always.score > 0.99
    assert abs(found["always"]) < 0.02
    assert rank(measured, kind="coupled").names[0] == "samples"


def test_it_can_be_said_how_certain_it_is(measured):
    ranking = rank_with_stability(measured, 1, kind="coupled")
    assert ranking.names[0] == "samples"
    assert ranking.layers[0].in_top == 1
    assert [layer.tier for layer in ranking.layers] == [1, 2, 2]


def test_what_was_not_counted_is_refused(measured):
    with pytest.raises(ReconError, match=r"below -0\.2 were not counted on halves of batches") as refusal:
        rank(measured, -0.2, kind="coupled")
    assert refusal.value.hint == "choose one of 0, -0.1"
    # Counted in the histogram of whole batches.
    assert rank(measured, -0.2).severity == -0.2
    none = measured.model_copy(update={"halves": HalvedIterations(every=1, iterations=0, skipped=ITERATIONS)})
    with pytest.raises(ReconError, match="no batch was measured in halves"):
        rank(none, kind="coupled")


def test_scores_without_halves_are_refused_by_the_command(recon, scores):
    recon("rank", scores, "--score", "coupled", "-o", "r.json").refuses(
        "hold nothing that was counted on halves of batches", "set `halves_every: 10` under `profile`"
    )
    # As are those of earlier versions, which say nothing of halves.
    content = json.loads(scores.read_bytes())

    def drop(part: object) -> object:
        if isinstance(part, dict):
            return {name: drop(each) for name, each in part.items() if name != "halves"}
        return [drop(each) for each in part] if isinstance(part, list) else part

    Path("old.json").write_text(json.dumps(drop(content)))
    recon("rank", "old.json", "-o", "old_ranking.json").succeeds()
    recon("rank", "old.json", "--score", "coupled", "-o", "r.json").refuses("halves_every")


def test_the_command_ranks_by_it(recon, config):
    recon("profile", config(profile={"iterations": 24, "halves_every": 2}), "-o", "s.json", "--save-cosines").succeeds()
    told = recon("rank", "s.json", "--score", "coupled", "-S", "0", "-o", "r.json").succeeds()
    assert "the score coupled, below cosine 0" in told.out
    scores, content = Scores.read("s.json"), json.loads(Path("r.json").read_bytes())
    assert content["kind"] == "coupled"
    for layer in content["layers"]:
        of_layer = next(each for each in scores.layers if each.name == layer["name"])
        pairs, same, cross = scores.halves_of(of_layer, 0.0)
        assert pairs == 24
        assert layer["score"] == (same - cross) / pairs
    recon("rank", "s.json", "--score", "coupled", "--stability", "2", "-S", "0", "-o", "t.json").succeeds()
    cosines = ["--cosines", "s.cosines.safetensors"]
    recon("rank", "s.json", "--score", "coupled", *cosines, "-o", "u.json").refuses(
        "`coupled` is counted by the profile"
    )
    assert "coupled" in recon("rank", "--explain").succeeds().out
