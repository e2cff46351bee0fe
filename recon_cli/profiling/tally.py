"""Counting over iterations: S-conflict scores, histograms, similarities, norms, and what could not be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from recon_cli.artifacts.scores import HISTOGRAM_BINS, Histogram, LayerStage, histogram_edge
from recon_cli.errors import ReconError, quoted
from recon_cli.profiling.cosines import cosines, gradient_norms, magnitude_similarities, pair_indices


class ConflictTally:
    """What is counted and summed per stage and layer.

    :param layers: number of layers L.
    :param tasks: number of tasks T.
    :param stages: number of stages.
    :param severities: the severities S at which conflicts are counted.
    """

    def __init__(self, layers: int, tasks: int, stages: int, severities: Sequence[float]) -> None:
        self._severities = torch.tensor(severities, dtype=torch.float64)
        self._inner_edges = torch.tensor(
            [histogram_edge(index) for index in range(1, HISTOGRAM_BINS)], dtype=torch.float64
        )
        self._first, self._second = pair_indices(tasks)
        self._pairs = torch.zeros(stages, layers, dtype=torch.int64)
        self._non_finite = torch.zeros(stages, layers, dtype=torch.int64)
        self._iterations = torch.zeros(stages, layers, dtype=torch.int64)
        self._conflicts = torch.zeros(stages, layers, len(severities), dtype=torch.int64)
        self._histogram = torch.zeros(stages, layers, HISTOGRAM_BINS, dtype=torch.int64)
        self._cosines = torch.zeros(stages, layers, dtype=torch.float64)
        self._similarities = torch.zeros(stages, layers, dtype=torch.float64)
        self._norms = torch.zeros(stages, layers, tasks, dtype=torch.float64)
        self._norm_iterations = torch.zeros(stages, layers, tasks, dtype=torch.int64)
        self._task_iterations = torch.zeros(tasks, dtype=torch.int64)
        self._pair_iterations = torch.zeros(len(self._first), dtype=torch.int64)

    def add(self, stage: int, grams: torch.Tensor, reached: torch.Tensor, present: torch.Tensor) -> None:
        """Count one iteration.

        Conflicts are the pairs with a cosine strictly below S (Recon, Definition 3). A pair is measured where both of
        its tasks reach the layer; one with a gradient that is not finite is counted as such, and nowhere else.

        :param stage: the stage, counted from 0.
        :param grams: float64, [L, T, T], on the CPU.
        :param reached: bool, [L, T]: whether the task's loss reaches the layer.
        :param present: bool, [T]: whether the task has a loss.
        """
        norms, cosine = gradient_norms(grams), cosines(grams)
        measured = reached[:, self._first] & reached[:, self._second]
        counted = measured & cosine.isfinite()
        self._pairs[stage] += counted.sum(1)
        self._non_finite[stage] += (measured & ~counted).sum(1)
        self._iterations[stage] += counted.any(1)
        below = (cosine.unsqueeze(-1) < self._severities) & counted.unsqueeze(-1)
        self._conflicts[stage] += below.sum(1)
        bins = torch.bucketize(cosine.nan_to_num(), self._inner_edges, right=True)
        self._histogram[stage].scatter_add_(1, bins, counted.long())
        self._cosines[stage] += cosine.where(counted, 0.0).sum(1)
        self._similarities[stage] += magnitude_similarities(norms).where(counted, 0.0).sum(1)
        known = reached & norms.isfinite()
        self._norms[stage] += norms.where(known, 0.0)
        self._norm_iterations[stage] += known
        self._task_iterations += present
        self._pair_iterations += present[self._first] & present[self._second]

    def state(self) -> dict[str, torch.Tensor]:
        """All counts and sums, by name; the tensors are the tally's own."""
        return {
            "pairs": self._pairs,
            "non_finite": self._non_finite,
            "iterations": self._iterations,
            "conflicts": self._conflicts,
            "histogram": self._histogram,
            "cosines": self._cosines,
            "similarities": self._similarities,
            "norms": self._norms,
            "norm_iterations": self._norm_iterations,
            "task_iterations": self._task_iterations,
            "pair_iterations": self._pair_iterations,
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over counts that another tally of the same layers, tasks, stages and severities gave.

        :raises ReconError: if they are of another shape.
        """
        for name, own in self.state().items():
            if name not in state or state[name].shape != own.shape:
                raise ReconError(f"the saved counts {quoted(name)} are of other layers, stages or severities")
            own.copy_(state[name])

    def score(self, severity: int) -> torch.Tensor:
        """The S-conflict score of every layer so far, [L].

        :param severity: index of S among the severities.
        """
        return self._conflicts[:, :, severity].sum(0)

    def pairs(self) -> torch.Tensor:
        """The number of pairs counted for every layer so far, [L]."""
        return self._pairs.sum(0)

    def task_iterations(self) -> tuple[int, ...]:
        """In how many iterations each task had a loss."""
        return tuple(self._task_iterations.tolist())

    def pair_iterations(self) -> tuple[int, ...]:
        """In how many iterations both tasks of a pair had a loss, pairs in the order (0, 1), (0, 2), ..."""
        return tuple(self._pair_iterations.tolist())

    def layer_stages(self, layer: int) -> tuple[LayerStage, ...]:
        """What was counted for one layer, stage by stage."""
        return tuple(self._layer_stage(stage, layer) for stage in range(len(self._pairs)))

    def _layer_stage(self, stage: int, layer: int) -> LayerStage:
        pairs = int(self._pairs[stage, layer])
        norm_iterations = self._norm_iterations[stage, layer].tolist()
        return LayerStage(
            pairs=pairs,
            non_finite=int(self._non_finite[stage, layer]),
            iterations=int(self._iterations[stage, layer]),
            conflicts=tuple(self._conflicts[stage, layer].tolist()),
            histogram=Histogram.from_counts(self._histogram[stage, layer].tolist()),
            gds=float(self._cosines[stage, layer]) / pairs if pairs else None,
            gms=float(self._similarities[stage, layer]) / pairs if pairs else None,
            norms=tuple(
                total / times if times else None
                for total, times in zip(self._norms[stage, layer].tolist(), norm_iterations, strict=True)
            ),
            norm_iterations=tuple(norm_iterations),
        )
