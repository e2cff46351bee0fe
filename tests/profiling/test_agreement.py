"""Counts and cosines against an independent computation in float64: one backward pass per task, numpy, loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recon_cli.artifacts.scores import HISTOGRAM_BINS
from recon_cli.config.schema import ProfileSection
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.losses import Task
from recon_cli.layers.discovery import discover_layers
from recon_cli.profiling.cosines import cosines
from recon_cli.profiling.engine import GramEngine
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.sampling import Sampling
from recon_cli.profiling.training import JointTraining

LAYERS = {
    "conv": ["conv.weight", "conv.bias"],
    "norm": ["norm.weight", "norm.bias"],
    "body.0": ["body.0.weight", "body.0.bias"],
    "body.2": ["body.2.weight", "body.2.bias"],
}
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


def reference_cosines() -> list[dict[str, dict[tuple[str, str], float]]]:
    """The cosines of every iteration, computed the slow way, and trained by an optimizer of our own."""
    model = make_model()
    result = []
    for batch in make_batches():
        state = {key: value.clone() for key, value in model.state_dict().items()}
        gradients = {}
        for task in "abc":
            # The statistics of the BatchNorm are set back, so that every task has the same forward pass.
            model.load_state_dict(state)
            model.zero_grad()
            F.cross_entropy(model(batch.inputs)[task], batch.targets[task]).backward()
            gradients[task] = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
        cosine = {}
        for layer, names in LAYERS.items():
            vectors = {task: np.concatenate([gradients[task][n].ravel() for n in names]) for task in "abc"}
            cosine[layer] = {
                (one, two): float(
                    np.dot(vectors[one], vectors[two]) / np.linalg.norm(vectors[one]) / np.linalg.norm(vectors[two])
                )
                for one, two in (("a", "b"), ("a", "c"), ("b", "c"))
            }
        everything = {
            task: np.concatenate([gradients[task][n].ravel() for o in LAYERS.values() for n in o]) for task in "abc"
        }
        cosine["trunk"] = {
            (one, two): float(
                np.dot(everything[one], everything[two])
                / np.linalg.norm(everything[one])
                / np.linalg.norm(everything[two])
            )
            for one, two in (("a", "b"), ("a", "c"), ("b", "c"))
        }
        result.append(cosine)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                total = sum(gradients[task].get(name, np.zeros(parameter.shape)) for task in "abc") / 3
                parameter -= LEARNING_RATE * torch.from_numpy(np.asarray(total))
    return result


@pytest.fixture(scope="module")
def reference() -> list[dict[str, dict[tuple[str, str], float]]]:
    return reference_cosines()


class GivenBatches:
    restarts = 0

    def __iter__(self):
        return iter(make_batches())


def measured(severities: list[float]) -> Measurement:
    model = make_model()
    tasks = tuple(Task(name, F.cross_entropy, name, {}) for name in "abc")
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    experiment = Experiment(model, tasks, GivenBatches(), optimizer, torch.device("cpu"), None)
    settings = ProfileSection(iterations=ITERATIONS, severities=severities)
    measurement = Measurement(("a", "b", "c"), settings, discover_layers(model))
    training = JointTraining(experiment, measurement, Sampling(ITERATIONS, every=1))
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
