"""What is counted of random gradients, against numpy: by stage, by window of time, and between each two tasks."""

from __future__ import annotations

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
import torch

from recon_cli.artifacts.scores import Z_LEVELS
from recon_cli.profiling.tally import ConflictTally

SEVERITIES = (0.0, -0.1)
SIZES = (4, 9)
TASKS = 3
STAGES = 2
ITERATIONS = 300


@pytest.fixture(scope="module")
def gradients():
    """[iterations, layers, tasks, d], of very different lengths; the third task is there every other time."""
    generator = np.random.default_rng(0)
    scale = np.exp(generator.normal(size=(ITERATIONS, 1, TASKS, 1)))
    return [scale[:, 0] * generator.normal(size=(ITERATIONS, TASKS, size)) for size in SIZES]


@pytest.fixture(scope="module")
def present():
    there = np.ones((ITERATIONS, TASKS), dtype=bool)
    there[::2, 2] = False
    return there


@pytest.fixture(scope="module")
def tally(gradients, present):
    tally = ConflictTally(len(SIZES), TASKS, STAGES, SEVERITIES, sizes=SIZES)
    for step in range(ITERATIONS):
        grams = torch.tensor(np.stack([layer[step] @ layer[step].T for layer in gradients]))
        there = torch.tensor(present[step])
        tally.add(step * STAGES // ITERATIONS, grams, there.expand(len(SIZES), -1), there)
    return tally


def cosines(layer):
    """[iterations, pairs]."""
    unit = layer / np.linalg.norm(layer, axis=-1, keepdims=True)
    return np.stack([(unit[:, i] * unit[:, j]).sum(-1) for i, j in combinations(range(TASKS), 2)], 1)


def oppositions(layer):
    found = []
    for i, j in combinations(range(TASKS), 2):
        one, two = layer[:, i], layer[:, j]
        found.append(np.maximum(0, -2 * (one * two).sum(-1) / ((one**2).sum(-1) + (two**2).sum(-1))))
    return np.stack(found, 1)


def measured(present):
    return np.stack([present[:, i] & present[:, j] for i, j in combinations(range(TASKS), 2)], 1)


@pytest.mark.parametrize("layer", range(len(SIZES)))
def test_each_stage_has_its_own(tally, gradients, present, layer):
    cosine, there = cosines(gradients[layer]), measured(present)
    for number, stage in enumerate(tally.layer_stages(layer)):
        half = slice(number * ITERATIONS // 2, (number + 1) * ITERATIONS // 2)
        known = cosine[half][there[half]]
        assert stage.z_conflicts == tuple(int((known * sqrt(SIZES[layer]) < level).sum()) for level in Z_LEVELS)
        assert stage.deviation == pytest.approx(known.std())
        assert stage.opposition == pytest.approx(oppositions(gradients[layer])[half][there[half]].mean())


@pytest.mark.parametrize("layer", range(len(SIZES)))
def test_each_window_has_its_own(tally, gradients, present, layer):
    cosine, there, against = cosines(gradients[layer]), measured(present), oppositions(gradients[layer])
    series, begin = tally.layer_series(layer), 0
    assert sum(tally.windows()) == ITERATIONS
    for window, length in enumerate(tally.windows()):
        part = slice(begin, begin + length)
        known = cosine[part][there[part]]
        assert series.pairs[window] == len(known)
        assert series.iterations[window] == length
        assert [row[window] for row in series.conflicts] == [(known < severity).sum() for severity in SEVERITIES]
        z = [(known * sqrt(SIZES[layer]) < level).sum() for level in Z_LEVELS]
        assert [row[window] for row in series.z_conflicts] == z
        assert series.gds[window] == pytest.approx(known.mean(), abs=1e-6)
        assert series.opposition[window] == pytest.approx(against[part][there[part]].mean(), abs=1e-6)
        begin += length


@pytest.mark.parametrize("layer", range(len(SIZES)))
def test_each_two_tasks_have_their_own(tally, gradients, present, layer):
    cosine, there = cosines(gradients[layer]), measured(present)
    between = tally.between(layer)
    for pair in range(TASKS):
        known = cosine[there[:, pair], pair]
        assert between.pairs[pair] == len(known)
        assert [row[pair] for row in between.conflicts] == [(known < severity).sum() for severity in SEVERITIES]
        assert between.cosines[pair] == pytest.approx(known.mean(), abs=1e-6)


def test_of_a_gradient_that_is_not_of_one_layer_nothing_is_counted_in_units_of_its_dimension():
    tally = ConflictTally(2, 2, 1, SEVERITIES, sizes=[5])
    gram = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).expand(2, 2, 2)
    tally.add(0, gram, torch.ones(2, 2, dtype=torch.bool), torch.ones(2, dtype=torch.bool))
    assert tally.layer_stages(0)[0].z_conflicts == (1, 1, 0)
    assert tally.layer_stages(1)[0].z_conflicts is None
    assert tally.layer_series(1).z_conflicts == ()
