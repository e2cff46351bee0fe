"""Counts and cosines against an independent computation in float64: one backward pass per task, numpy, loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recon_cli.artifacts.scores import HISTOGRAM_BINS, LayerStage
from recon_cli.config.schema import Config, ProfileSection
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.losses import Task
from recon_cli.experiment.optimization import Optimization
from recon_cli.gradients.engine import GramEngine
from recon_cli.layers.discovery import discover_layers
from recon_cli.profiling.cosines import cosines
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.profiler import ConflictProfiler
from recon_cli.profiling.recording import Recording
from recon_cli.profiling.sampling import Sampling
from recon_cli.updating.training import Training

LAYERS = {
    "conv": ["conv.weight", "conv.bias"],
    "norm": ["norm.weight", "norm.bias"],
    "body.0": ["body.0.weight", "body.0.bias"],
    "body.2": ["body.2.weight", "body.2.bias"],
}
PAIRS = (("a", "b"), ("a", "c"), ("b", "c"))
ITERATIONS = 12
LEARNING_RATE = 0.1


class ThreeTasks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
        self.heads = torch.nn.ModuleDict({name: torch.nn.Linear(6, 3) for name in "abc"})

    def forward(self, x):
        x = self.body(F.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))
        return {task: head(x) for task, head in self.heads.items()}


def make_batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(11)
    return [
        Batch(
            torch.rand(8, 1, 5, 5, generator=generator, dtype=torch.float64),
            {task: torch.randint(3, (8,), generator=generator) for task in "abc"},
        )
        for _ in range(ITERATIONS)
    ]


def make_model() -> torch.nn.Module:
    torch.manual_seed(5)
    return ThreeTasks().double().train()


def reference_gradients(present: Sequence[str] = ("abc",) * ITERATIONS) -> list[dict[str, dict[str, np.ndarray]]]:
    """The tasks' gradients of every layer in every iteration, computed the slow way, and trained by hand.

    :param present: the tasks that have a loss, iteration by iteration.
    """
    model = make_model()
    result = []
    for batch, tasks in zip(make_batches(), present, strict=True):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        gradients = {}
        for task in tasks:
            # The statistics of the BatchNorm are set back, so that every task has the same forward pass.
            model.load_state_dict(state)
            model.zero_grad()
            F.cross_entropy(model(batch.inputs)[task], batch.targets[task]).backward()
            gradients[task] = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
        whole = {**LAYERS, "trunk": [name for names in LAYERS.values() for name in names]}
        result.append(
            {
                layer: {task: np.concatenate([gradients[task][name].ravel() for name in names]) for task in tasks}
                for layer, names in whole.items()
            }
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                total = sum(gradients[task].get(name, np.zeros(parameter.shape)) for task in tasks) / len(tasks)
                parameter -= LEARNING_RATE * torch.from_numpy(np.asarray(total))
    return result


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.dot(one, two) / np.linalg.norm(one) / np.linalg.norm(two))


def magnitude_similarity(one: np.ndarray, two: np.ndarray) -> float:
    norms = np.linalg.norm(one), np.linalg.norm(two)
    return float(2 * norms[0] * norms[1] / (norms[0] ** 2 + norms[1] ** 2))


def reference_cosines() -> list[dict[str, dict[tuple[str, str], float]]]:
    """The cosines of every iteration in which all tasks have a loss."""
    return [
        {layer: {pair: cosine(*(of[task] for task in pair)) for pair in PAIRS} for layer, of in step.items()}
        for step in reference_gradients()
    ]


@pytest.fixture(scope="module")
def reference() -> list[dict[str, dict[tuple[str, str], float]]]:
    return reference_cosines()


class GivenBatches:
    restarts = 0

    def __init__(self) -> None:
        self._batches = iter(make_batches())

    def next_of_pass(self):
        return next(self._batches)


def measured(severities: list[float]) -> Measurement:
    model = make_model()
    tasks = tuple(Task(name, F.cross_entropy, name, {}) for name in "abc")
    config = Config.model_validate(
        {
            "model": {"target": "a:b"},
            "tasks": [{"name": name, "loss": "cross_entropy", "label": name} for name in "abc"],
            "data": {"target": "a:b"},
            "optimizer": {"target": "SGD", "kwargs": {"lr": LEARNING_RATE}},
        }
    )
    device = torch.device("cpu")
    optimization = Optimization(config, model, device)
    experiment = Experiment(model, tasks, (0, 1, 2), GivenBatches(), optimization, device, model, None, None)
    settings = ProfileSection(iterations=ITERATIONS, severities=severities)
    measurement = Measurement(("a", "b", "c"), settings, discover_layers(model))
    training = Training(experiment, recorder=Recording(measurement, Sampling(ITERATIONS, every=1)))
    for _ in range(ITERATIONS):
        training.advance()
    return measurement


def test_the_shared_layers_are_found(reference):
    assert [layer.name for layer in measured([0.0]).scored_layers()] == list(LAYERS)


def test_counts_agree_pair_by_pair_over_all_iterations(reference):
    severities = [0.0, -0.05, -0.1, -0.3, -0.7]
    for layer in measured(severities).scored_layers():
        for index, severity in enumerate(severities):
            expected = sum(cosine < severity for step in reference for cosine in step[layer.name].values())
            assert sum(stage.conflicts[index] for stage in layer.stages) == expected, (layer.name, severity)


def test_counts_of_the_whole_trunk_agree(reference):
    severities = [0.0, -0.05, -0.1, -0.3]
    trunk = measured(severities).trunk()
    for index, severity in enumerate(severities):
        expected = sum(cosine < severity for step in reference for cosine in step["trunk"].values())
        assert sum(stage.conflicts[index] for stage in trunk) == expected


def test_counts_of_each_stage_agree(reference):
    for layer in measured([-0.1]).scored_layers():
        for number, stage in enumerate(layer.stages):
            steps = reference[number * 3 : number * 3 + 3]
            assert stage.pairs == 9
            assert stage.conflicts[0] == sum(c < -0.1 for step in steps for c in step[layer.name].values())


def test_histograms_agree(reference):
    for layer in measured([0.0]).scored_layers():
        expected = [0] * HISTOGRAM_BINS
        for step in reference:
            for cosine in step[layer.name].values():
                expected[min(math.floor((cosine + 1) * HISTOGRAM_BINS / 2), HISTOGRAM_BINS - 1)] += 1
        found = [0] * HISTOGRAM_BINS
        for stage in layer.stages:
            for offset, count in enumerate(stage.histogram.counts):
                found[stage.histogram.first + offset] += count
        assert found == expected


def test_cosines_agree_to_rounding(reference):
    model = make_model()
    engine = GramEngine(model, discover_layers(model))
    batch = make_batches()[0]
    with engine.watching():
        outputs = model(batch.inputs)
    losses = [F.cross_entropy(outputs[task], batch.targets[task]) for task in "abc"]
    found = cosines(engine.backward(losses).grams)
    for row, layer in zip(found, LAYERS, strict=False):
        assert row.tolist() == pytest.approx(list(reference[0][layer].values()), abs=1e-12)


def check_similarities(stage: LayerStage, steps: Sequence[dict[str, np.ndarray]]) -> None:
    """Compare what was measured of a layer with its tasks' gradients, pair by pair."""
    pairs = [pair for step in steps for pair in combinations((step[task] for task in sorted(step)), 2)]
    norms = {task: [np.linalg.norm(step[task]) for step in steps if task in step] for task in "abc"}
    assert stage.pairs == len(pairs)
    assert stage.iterations == sum(len(step) > 1 for step in steps)
    assert stage.gds == (pytest.approx(np.mean([cosine(*pair) for pair in pairs]), abs=1e-12) if pairs else None)
    expected = pytest.approx(np.mean([magnitude_similarity(*pair) for pair in pairs]), abs=1e-12) if pairs else None
    assert stage.gms == expected
    assert stage.norm_iterations == tuple(len(values) for values in norms.values())
    for norm, values in zip(stage.norms, norms.values(), strict=True):
        assert norm == (pytest.approx(np.mean(values), rel=1e-12) if values else None)


def test_similarities_and_norms_agree_in_every_stage():
    gradients = reference_gradients()
    measurement = measured([0.0])
    layers = {layer.name: layer.stages for layer in measurement.scored_layers()}
    for name, stages in {**layers, "trunk": measurement.trunk()}.items():
        for number, stage in enumerate(stages):
            check_similarities(stage, [step[name] for step in gradients[number * 3 : number * 3 + 3]])


def test_similarities_and_norms_agree_where_tasks_come_and_go():
    present = ["ab", "c", "abc", "a", "b", "b", "ac", "bc", "abc", "bc", "abc", "abc"]
    gradients = reference_gradients(present)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    profiler = ConflictProfiler(model, list("abc"), steps=ITERATIONS)
    for batch, tasks in zip(make_batches(), present, strict=True):
        outputs = model(batch.inputs)
        optimizer.zero_grad()
        profiler.backward({task: F.cross_entropy(outputs[task], batch.targets[task]) for task in tasks})
        optimizer.step()
    scores = profiler.scores()
    for name, stages in {**{layer.name: layer.stages for layer in scores.layers}, "trunk": scores.trunk}.items():
        for number, stage in enumerate(stages):
            check_similarities(stage, [step[name] for step in gradients[number * 3 : number * 3 + 3]])
    assert scores.task_iterations == tuple(sum(task in tasks for tasks in present) for task in "abc")
    assert scores.pair_iterations == tuple(sum(set(pair) <= set(tasks) for tasks in present) for pair in PAIRS)


def test_a_task_that_never_reaches_a_layer_has_no_norm_there():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)).double()
    profiler = ConflictProfiler(model, list("abc"))
    early = model[0](torch.ones(2, 3, dtype=torch.float64))
    late = model[1](early)
    profiler.backward({"a": late.sum(), "b": late.square().sum(), "c": early.sum()})
    first, second = profiler.scores().layers
    assert None not in profiler.scores().norms(first)
    assert [norm is None for norm in profiler.scores().norms(second)] == [False, False, True]
    assert second.stages[0].norm_iterations == (1, 1, 0)
    assert profiler.scores().task_iterations == (1, 1, 1)
