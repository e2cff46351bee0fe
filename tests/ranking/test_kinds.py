"""Scores beyond the count, against scipy, numpy and what they are defined as."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError
from recon_cli.profiling.tally import ConflictTally
from recon_cli.ranking.kinds import KINDS
from recon_cli.ranking.null import random_rate
from recon_cli.ranking.rank import rank
from tests.conftest import scores_of

SEVERITIES = (0.0, -0.1)
SIZES = {"small": 20, "large": 4000}
ITERATIONS = 200


@given(st.floats(-1, 1), st.integers(2, 10**7))
def test_the_null_is_that_of_scipy(severity, dimensions):
    half = (dimensions - 1) / 2
    expected = stats.beta.cdf((1 + severity) / 2, half, half)
    assert random_rate(severity, dimensions) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("dimensions", [1, 2, 5, 128])
def test_the_null_is_that_of_random_directions(dimensions):
    drawn = np.random.default_rng(0).normal(size=(2, 20_000, dimensions))
    one, two = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    cosines = (one * two).sum(-1)
    for severity in (-0.9, -0.3, -0.1, 0.3):
        assert random_rate(severity, dimensions) == pytest.approx((cosines < severity).mean(), abs=0.015)


def test_the_null_of_the_paper_s_smallest_and_largest_layers():
    # ../shared/facts: 12.9% at d = 128, and 0 at d = 2.4 million.
    assert random_rate(-0.1, 128) == pytest.approx(0.129, abs=1e-3)
    assert random_rate(-0.1, 2_400_000) < 1e-12


@pytest.fixture(scope="module")
def gradients():
    """[iterations, tasks, d] of each layer: random ones in the small one, slightly opposed ones in the large one."""
    generator = np.random.default_rng(1)
    drawn = {name: generator.normal(size=(ITERATIONS, 2, size)) for name, size in SIZES.items()}
    drawn["large"][:, 1] -= 0.06 * drawn["large"][:, 0]
    drawn["large"][:, 1] *= 3
    return drawn


@pytest.fixture(scope="module")
def measured(gradients):
    there = torch.ones(2, dtype=torch.bool)
    tallies = {}
    for name, drawn in gradients.items():
        tallies[name] = ConflictTally(1, 2, 2, SEVERITIES, sizes=[SIZES[name]])
        for step, pair in enumerate(drawn):
            tallies[name].add(step * 2 // ITERATIONS, torch.tensor(pair @ pair.T)[None], there[None], there)
    made = scores_of(tallies, [ITERATIONS // 2] * 2, SEVERITIES)
    layers = [layer.model_copy(update={"size": SIZES[layer.name]}) for layer in made.layers]
    return made.model_copy(update={"layers": tuple(layers)})


def cosines(pair):
    unit = pair / np.linalg.norm(pair, axis=-1, keepdims=True)
    return (unit[:, 0] * unit[:, 1]).sum(-1)


def expected(kind, pair, size):
    found = cosines(pair)
    rate = (found < -0.1).mean()
    excess = rate - stats.beta.cdf(0.45, (size - 1) / 2, (size - 1) / 2)
    products, squares = (pair[:, 0] * pair[:, 1]).sum(-1), (pair**2).sum((1, 2))
    return {
        "conflicts": (found < -0.1).sum(),
        "probability": rate,
        "fitted": stats.norm.cdf(-0.1, found.mean(), found.std()),
        "excess": excess,
        "z": (found * np.sqrt(size) < -2).mean(),
        "magnitude": np.maximum(0, -2 * products / squares).mean(),
        "per-parameter": max(0, excess) * len(found) / (size / 1e6),
    }[kind]


@pytest.mark.parametrize("stage", [None, 2])
@pytest.mark.parametrize("kind", [name for name in KINDS if name not in ("per-operation", "coupled")])
def test_a_score_is_what_it_is_defined_as(measured, gradients, kind, stage):
    ranking = rank(measured, stage=stage, kind=kind)
    part = slice(None) if stage is None else slice(ITERATIONS // 2, None)
    for layer in ranking.layers:
        assert layer.score == pytest.approx(expected(kind, gradients[layer.name][part], SIZES[layer.name]), abs=1e-6)
    assert ranking.kind == kind
    assert all(one.score >= two.score for one, two in pairwise(ranking.layers))


def test_the_count_lists_layers_by_size_where_their_excess_tells_real_conflicts(measured):
    assert rank(measured).names == ("small", "large")
    assert rank(measured, kind="z").names == ("large", "small")
    large = next(layer for layer in rank(measured, -0.05, kind="excess").layers if layer.name == "large")
    small = next(layer for layer in rank(measured, -0.1, kind="excess").layers if layer.name == "small")
    assert large.score > 0.5 > small.score + 0.4


def test_for_z_the_severity_is_the_bound(measured, gradients):
    ranking = rank(measured, -3, kind="z")
    assert (ranking.severity, ranking.z_bound) == (None, -3)
    for layer in ranking.layers:
        z = cosines(gradients[layer.name]) * np.sqrt(SIZES[layer.name])
        assert layer.score == layer.rate == pytest.approx((z < -3).mean())
    with pytest.raises(ReconError, match=r"below -1, -2, -3, not below -2\.5"):
        rank(measured, -2.5, kind="z")


@pytest.mark.parametrize("kind", ["fitted", "z", "magnitude"])
def test_scores_of_an_older_version_are_refused_where_they_lack_something(measured, kind):
    content = measured.model_dump(mode="json")
    for part in [*content["trunk"], *(stage for layer in content["layers"] for stage in layer["stages"])]:
        for name in ("deviation", "opposition", "z_conflicts"):
            del part[name]
    old = Scores.from_content(content | {"schema": Scores.SCHEMA}, "old")
    assert rank(old).names == rank(measured).names
    with pytest.raises(ReconError, match="old versions do not hold"):
        rank(old, kind=kind)


def test_a_kind_that_is_not_there_is_refused_with_the_nearest(measured):
    with pytest.raises(ReconError, match="there is no score `exces`") as caught:
        rank(measured, kind="exces")
    assert caught.value.hint == "did you mean `excess`?"


def test_operations_are_those_that_the_layer_s_split_alone_adds(recon, checkpoint, ranking):
    def ranked(kind):
        document = recon("rank", "scores.json", "-S", 0, "--score", kind, "--json").succeeds().document
        return {layer["name"]: layer for layer in document["layers"]}

    excess, by_operation = ranked("excess"), ranked("per-operation")
    every = ["--ranking", ranking, "--top-k", len(excess)]
    cost = recon("split", checkpoint, *every, "--dry-run", "--json").succeeds().document["cost"]
    scored = 0
    for name, layer in by_operation.items():
        removable = max(0, excess[name]["score"]) * layer["pairs"]
        added = max(cost["by_layer"][name] - cost["shared"], layer["size"])
        assert layer["score"] == pytest.approx(removable / added * 1e6)
        scored += removable > 0
    assert scored
