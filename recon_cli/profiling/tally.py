"""Counting over iterations: S-conflict scores, histograms, similarities, norms, and what could not be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch

from recon_cli.artifacts.scores import HISTOGRAM_BINS, FeatureStage, Histogram, LayerStage, histogram_edge
from recon_cli.errors import ReconError, quoted
from recon_cli.gradients.disentanglement import SaliencyEntropy
from recon_cli.profiling.cosines import cosines, gradient_norms, magnitude_similarities, pair_indices

Counts = dict[str, torch.Tensor]
"""What was counted and summed in one stage, by name."""


class ConflictTally:
    """What is counted and summed per stage and layer.

    :param layers: number of layers L.
    :param tasks: number of tasks T.
    :param stages: number of stages.
    :param severities: the severities S at which conflicts are counted.
    :param features: number of shared representations F; they are the last of the layers.
    """

    def __init__(self, layers: int, tasks: int, stages: int, severities: Sequence[float], features: int = 0) -> None:
        self._severities = torch.tensor(severities, dtype=torch.float64)
        self._inner_edges = torch.tensor(
            [histogram_edge(index) for index in range(1, HISTOGRAM_BINS)], dtype=torch.float64
        )
        self._first, self._second = pair_indices(tasks)
        self._highest_fd = log(tasks)
        self._stages = [self._nothing(layers, tasks, features) for _ in range(stages)]

    def _nothing(self, layers: int, tasks: int, features: int) -> Counts:
        def counts(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int64)

        def sums(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        return {
            "stage_iterations": counts(),
            "task_iterations": counts(tasks),
            "pair_iterations": counts(len(self._first)),
            "pairs": counts(layers),
            "non_finite": counts(layers),
            "iterations": counts(layers),
            "conflicts": counts(layers, len(self._severities)),
            "histogram": counts(layers, HISTOGRAM_BINS),
            "cosines": sums(layers),
            "similarities": sums(layers),
            "norms": sums(layers, tasks),
            "norm_iterations": counts(layers, tasks),
            "fd": sums(features),
            "fd_iterations": counts(features),
            "positions": counts(features),
            "silent_positions": counts(features),
        }

    def add(
        self,
        stage: int,
        grams: torch.Tensor,
        reached: torch.Tensor,
        present: torch.Tensor,
        entropies: SaliencyEntropy | None = None,
    ) -> None:
        """Count one iteration.

        Conflicts are the pairs with a cosine strictly below S (Recon, Definition 3). A pair is measured where both of
        its tasks reach the layer; one with a gradient that is not finite is counted as such, and nowhere else.

        :param stage: the stage, counted from 0.
        :param grams: float64, [L, T, T], on the CPU.
        :param reached: bool, [L, T]: whether the task's loss reaches the layer.
        :param present: bool, [T]: whether the task has a loss.
        :param entropies: of the F representations, [F] each, on the CPU; None if there are none.
        """
        found = self._count(grams, reached, present)
        if entropies is not None:
            found |= self._count_entropies(entropies, reached)
        # By one assignment, so that an interrupt leaves the iteration counted wholly or not at all.
        self._stages[stage] = {
            name: total + found[name] if name in found else total for name, total in self._stages[stage].items()
        }

    def _count(self, grams: torch.Tensor, reached: torch.Tensor, present: torch.Tensor) -> Counts:
        norms, cosine = gradient_norms(grams), cosines(grams)
        measured = reached[:, self._first] & reached[:, self._second]
        counted = measured & cosine.isfinite()
        below = (cosine.unsqueeze(-1) < self._severities) & counted.unsqueeze(-1)
        bins = torch.bucketize(cosine.nan_to_num(), self._inner_edges, right=True)
        histogram = torch.zeros(len(grams), HISTOGRAM_BINS, dtype=torch.int64)
        known = reached & norms.isfinite()
        return {
            "stage_iterations": torch.tensor(1),
            "task_iterations": present,
            "pair_iterations": present[self._first] & present[self._second],
            "pairs": counted.sum(1),
            "non_finite": (measured & ~counted).sum(1),
            "iterations": counted.any(1),
            "conflicts": below.sum(1),
            "histogram": histogram.scatter_add_(1, bins, counted.long()),
            "cosines": cosine.where(counted, 0.0).sum(1),
            "similarities": magnitude_similarities(norms).where(counted, 0.0).sum(1),
            "norms": norms.where(known, 0.0),
            "norm_iterations": known,
        }

    def _count_entropies(self, entropies: SaliencyEntropy, reached: torch.Tensor) -> Counts:
        several = reached[len(reached) - len(entropies.total) :].sum(1) >= 2
        # A gradient that is not finite makes the sum so.
        counted = several & entropies.total.isfinite()
        measured = counted & (entropies.positions > 0)
        # Rounding may lift the mean over its bound.
        fd = (entropies.total / entropies.positions).clamp(max=self._highest_fd)
        return {
            "fd": fd.where(measured, 0.0),
            "fd_iterations": measured,
            "positions": entropies.positions.where(counted, 0),
            "silent_positions": entropies.silent.where(counted, 0),
        }

    def state(self) -> dict[str, torch.Tensor]:
        """All counts and sums, by name and then by stage."""
        return {name: torch.stack([stage[name] for stage in self._stages]) for name in self._stages[0]}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over counts that another tally of the same layers, tasks, stages and severities gave.

        :raises ReconError: if they are of another shape.
        """
        for name, own in self.state().items():
            if name not in state or state[name].shape != own.shape:
                raise ReconError(f"the saved counts {quoted(name)} are of other layers, stages or severities")
        self._stages = [
            {name: state[name][number].to(own, copy=True) for name, own in stage.items()}
            for number, stage in enumerate(self._stages)
        ]

    def score(self, severity: int) -> torch.Tensor:
        """The S-conflict score of every layer so far, [L].

        :param severity: index of S among the severities.
        """
        return self._total("conflicts")[:, severity]

    def pairs(self) -> torch.Tensor:
        """The number of pairs counted for every layer so far, [L]."""
        return self._total("pairs")

    def stage_iterations(self) -> tuple[int, ...]:
        """How many iterations were counted in each stage."""
        return tuple(int(stage["stage_iterations"]) for stage in self._stages)

    def task_iterations(self) -> tuple[int, ...]:
        """In how many iterations each task had a loss."""
        return tuple(self._total("task_iterations").tolist())

    def pair_iterations(self) -> tuple[int, ...]:
        """In how many iterations both tasks of a pair had a loss, pairs in the order (0, 1), (0, 2), ..."""
        return tuple(self._total("pair_iterations").tolist())

    def layer_stages(self, layer: int) -> tuple[LayerStage, ...]:
        """What was counted for one layer, stage by stage."""
        return tuple(_layer_stage(stage, layer) for stage in self._stages)

    def feature_stages(self, feature: int) -> tuple[FeatureStage, ...]:
        """What was counted for one shared representation, stage by stage."""
        return tuple(_feature_stage(stage, feature) for stage in self._stages)

    def _total(self, name: str) -> torch.Tensor:
        return torch.stack([stage[name] for stage in self._stages]).sum(0)


def _feature_stage(stage: Counts, feature: int) -> FeatureStage:
    layer = len(stage["pairs"]) - len(stage["fd"]) + feature
    iterations = int(stage["fd_iterations"][feature])
    return FeatureStage(
        **dict(_layer_stage(stage, layer)),
        fd=float(stage["fd"][feature]) / iterations if iterations else None,
        fd_iterations=iterations,
        positions=int(stage["positions"][feature]),
        silent_positions=int(stage["silent_positions"][feature]),
    )


def _layer_stage(stage: Counts, layer: int) -> LayerStage:
    pairs = int(stage["pairs"][layer])
    norm_iterations = stage["norm_iterations"][layer].tolist()
    return LayerStage(
        pairs=pairs,
        non_finite=int(stage["non_finite"][layer]),
        iterations=int(stage["iterations"][layer]),
        conflicts=tuple(stage["conflicts"][layer].tolist()),
        histogram=Histogram.from_counts(stage["histogram"][layer].tolist()),
        gds=float(stage["cosines"][layer]) / pairs if pairs else None,
        gms=float(stage["similarities"][layer]) / pairs if pairs else None,
        norms=tuple(
            total / times if times else None
            for total, times in zip(stage["norms"][layer].tolist(), norm_iterations, strict=True)
        ),
        norm_iterations=tuple(norm_iterations),
    )
