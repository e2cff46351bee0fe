"""Counting cosines: S-conflict scores, histograms, and what could not be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from recon_cli.artifacts.scores import HISTOGRAM_BINS, Histogram, LayerStage, histogram_edge
from recon_cli.errors import ReconError, quoted


class ConflictTally:
    """Counts of cosines per stage and layer.

    :param layers: number of layers L.
    :param stages: number of stages.
    :param severities: the severities S at which conflicts are counted.
    """

    def __init__(self, layers: int, stages: int, severities: Sequence[float]) -> None:
        self._severities = torch.tensor(severities, dtype=torch.float64)
        self._inner_edges = torch.tensor(
            [histogram_edge(index) for index in range(1, HISTOGRAM_BINS)], dtype=torch.float64
        )
        self._pairs = torch.zeros(stages, layers, dtype=torch.int64)
        self._non_finite = torch.zeros(stages, layers, dtype=torch.int64)
        self._conflicts = torch.zeros(stages, layers, len(severities), dtype=torch.int64)
        self._histogram = torch.zeros(stages, layers, HISTOGRAM_BINS, dtype=torch.int64)

    def add(self, stage: int, cosines: torch.Tensor, measured: torch.Tensor) -> None:
        """Count the cosines of one iteration (Recon, Definition 3: the pairs with a cosine strictly below S).

        :param stage: the stage, counted from 0.
        :param cosines: float64, [L, pairs], on the CPU; NaN where a gradient was not finite.
        :param measured: bool, [L, pairs]: whether both tasks of the pair reach the layer.
        """
        finite = cosines.isfinite()
        counted = measured & finite
        self._pairs[stage] += counted.sum(1)
        self._non_finite[stage] += (measured & ~finite).sum(1)
        below = (cosines.unsqueeze(-1) < self._severities) & counted.unsqueeze(-1)
        self._conflicts[stage] += below.sum(1)
        bins = torch.bucketize(cosines.nan_to_num(), self._inner_edges, right=True)
        self._histogram[stage].scatter_add_(1, bins, counted.long())

    def state(self) -> dict[str, torch.Tensor]:
        """All counts, by name; the tensors are the tally's own."""
        return {
            "pairs": self._pairs,
            "non_finite": self._non_finite,
            "conflicts": self._conflicts,
            "histogram": self._histogram,
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over counts that another tally of the same layers, stages and severities gave.

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

    def layer_stages(self, layer: int) -> tuple[LayerStage, ...]:
        """What was counted for one layer, stage by stage."""
        return tuple(
            LayerStage(
                pairs=int(self._pairs[stage, layer]),
                non_finite=int(self._non_finite[stage, layer]),
                conflicts=tuple(self._conflicts[stage, layer].tolist()),
                histogram=Histogram.from_counts(self._histogram[stage, layer].tolist()),
            )
            for stage in range(len(self._pairs))
        )
