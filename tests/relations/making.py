"""Scores of random gradients of tasks that pull one way, the other, or to the side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

from recon_cli.artifacts.scores import Scores
from recon_cli.profiling.tally import ConflictTally
from tests.conftest import scores_of

SEVERITIES = (0.0, -0.1)
PULLS = (1.0, -1.0, 1.0, 0.0, -1.0)
"""Tasks 0 and 2 agree, 1 and 4 agree, and 3 has nothing to do with any."""
SIZE = 9


def gradients(iterations: int, pulls: Sequence[float] = PULLS, seed: int = 0) -> np.ndarray:
    """[iterations, tasks, d], of very different lengths; they pull the more the later it is."""
    generator = np.random.default_rng(seed)
    rising = np.linspace(0, 1, iterations)[:, None, None] * np.array(pulls)[:, None]
    lengths = np.exp(generator.normal(size=(iterations, len(pulls), 1)))
    return lengths * (rising + generator.normal(size=(iterations, len(pulls), SIZE)))


def scores_of_gradients(*layers: np.ndarray) -> Scores:
    """Scores of layers `layer0`, `layer1`, ... with these gradients; the trunk is the first of them."""
    iterations, tasks, _ = layers[0].shape
    tallies = {}
    for place, layer in enumerate(layers):
        tally = ConflictTally(1, tasks, 1, SEVERITIES)
        everyone = torch.ones(tasks, dtype=torch.bool)
        for each in layer:
            tally.add(0, torch.tensor(each @ each.T)[None], everyone[None], everyone)
        tallies[f"layer{place}"] = tally
    return scores_of(tallies, [iterations], SEVERITIES)


def of_five_tasks(iterations: int) -> Scores:
    """Scores of five tasks and two layers."""
    return scores_of_gradients(gradients(iterations), gradients(iterations, seed=1))


def cosines(layer: np.ndarray) -> np.ndarray:
    """[iterations, pairs]."""
    unit = layer / np.linalg.norm(layer, axis=-1, keepdims=True)
    return np.stack([(unit[:, i] * unit[:, j]).sum(-1) for i, j in combinations(range(layer.shape[1]), 2)], 1)
