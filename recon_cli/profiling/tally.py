"""Counting over iterations: S-conflict scores, histograms, similarities, norms, and what could not be counted.

Everything is counted by the stage of the run; some of it by the pair of tasks, and by windows of time, as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import torch

from recon_cli.artifacts.scores import (
    HISTOGRAM_BINS,
    Z_LEVELS,
    FeatureStage,
    Halves,
    Histogram,
    LayerStage,
    histogram_edge,
)
from recon_cli.artifacts.series import Between, FeatureSeries, HalfSeries, Series
from recon_cli.errors import ReconError, quoted
from recon_cli.gradients.disentanglement import SaliencyEntropy
from recon_cli.profiling.cosines import cosines, gradient_norms, magnitude_similarities, pair_indices
from recon_cli.profiling.halves import ON_HALVES, count_on_halves, nothing_on_halves
from recon_cli.profiling.windows import Counts, Windows, added

_DECIMALS = 6
_BETWEEN = "between."
_WINDOWS = "windows."
_IN_WINDOWS = ("iterations", "pairs", "conflicts", "z_conflicts", "cosines", "similarities", "oppositions")
_FEATURES_IN_WINDOWS = ("fd", "fd_iterations")


@dataclass(frozen=True)
class _Counted:
    """All that was counted so far."""

    stages: tuple[Counts, ...]
    between: Counts
    windows: Windows


class ConflictTally:
    """What is counted and summed per stage and layer.

    :param layers: number of layers L.
    :param tasks: number of tasks T.
    :param stages: number of stages.
    :param severities: the severities S at which conflicts are counted.
    :param features: number of shared representations F; they are the last of the layers.
    :param sizes: the numbers of parameters d of the first layers, those for which cos sqrt(d) is counted.
    :param halves: whether it is counted on halves of batches as well, of all layers but representations.
    """

    def __init__(
        self,
        layers: int,
        tasks: int,
        stages: int,
        severities: Sequence[float],
        features: int = 0,
        sizes: Sequence[int] = (),
        *,
        halves: bool = False,
    ) -> None:
        # Nothing is below NaN, so that nothing is counted where the size is not known.
        bounds = [[level / sqrt(size) for level in Z_LEVELS] for size in sizes]
        bounds += [[torch.nan] * len(Z_LEVELS)] * (layers - len(sizes))
        self._z_bounds = torch.tensor(bounds, dtype=torch.float64).unsqueeze(1)
        self._sized = len(sizes)
        self._severities = torch.tensor(severities, dtype=torch.float64)
        self._inner_edges = torch.tensor(
            [histogram_edge(index) for index in range(1, HISTOGRAM_BINS)], dtype=torch.float64
        )
        self._first, self._second = pair_indices(tasks)
        self._highest_fd = log(tasks)
        self._halved = layers - features if halves else None
        self._counted = _Counted(
            tuple(self._nothing(layers, tasks, features) for _ in range(stages)),
            self._nothing_between(layers),
            Windows(),
        )

    def _nothing(self, layers: int, tasks: int, features: int) -> Counts:
        return {
            "stage_iterations": _counts(),
            "task_iterations": _counts(tasks),
            "pair_iterations": _counts(len(self._first)),
            "pairs": _counts(layers),
            "non_finite": _counts(layers),
            "iterations": _counts(layers),
            "conflicts": _counts(layers, len(self._severities)),
            "z_conflicts": _counts(layers, len(Z_LEVELS)),
            "histogram": _counts(layers, HISTOGRAM_BINS),
            "cosines": _sums(layers),
            "squares": _sums(layers),
            "similarities": _sums(layers),
            "oppositions": _sums(layers),
            "norms": _sums(layers, tasks),
            "norm_iterations": _counts(layers, tasks),
            "fd": _sums(features),
            "fd_iterations": _counts(features),
            "positions": _counts(features),
            "silent_positions": _counts(features),
            **({"halved": _counts(), **self._nothing_on_halves()} if self._halved is not None else {}),
        }

    def _nothing_on_halves(self) -> Counts:
        if self._halved is None:
            return {}
        return nothing_on_halves(self._halved, len(self._severities))

    def _nothing_between(self, layers: int) -> Counts:
        pairs = len(self._first)
        return {
            "pairs": _counts(layers, pairs),
            "conflicts": _counts(layers, pairs, len(self._severities)),
            "cosines": _sums(layers, pairs),
        }

    def add(
        self,
        stage: int,
        grams: torch.Tensor,
        reached: torch.Tensor,
        present: torch.Tensor,
        entropies: SaliencyEntropy | None = None,
        on_halves: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """Count one iteration.

        Conflicts are the pairs with a cosine strictly below S (Recon, Definition 3). A pair is measured where both of
        its tasks reach the layer; one with a gradient that is not finite is counted as such, and nowhere else.

        :param stage: the stage, counted from 0.
        :param grams: float64, [L, T, T], on the CPU.
        :param reached: bool, [L, T]: whether the task's loss reaches the layer.
        :param present: bool, [T]: whether the task has a loss.
        :param entropies: of the F representations, [F] each, on the CPU; None if there are none.
        :param on_halves: the Gram matrices of the tasks on the first half of the batch, and then on the second one, of
            all layers but representations, float64, [L - F, 2T, 2T], and where the losses reach, [L - F, 2T]; None if
            they were not measured.
        """
        norms, cosine = gradient_norms(grams), cosines(grams)
        measured = reached[:, self._first] & reached[:, self._second]
        counted = measured & cosine.isfinite()
        below = (cosine.unsqueeze(-1) < self._severities) & counted.unsqueeze(-1)
        known = cosine.where(counted, 0.0)
        found = {
            "stage_iterations": torch.tensor(1),
            "task_iterations": present,
            "pair_iterations": present[self._first] & present[self._second],
            "non_finite": (measured & ~counted).sum(1),
            "conflicts": below.sum(1),
            **self._count_pairs(known, counted, norms),
            **_count_norms(norms, reached),
        }
        if entropies is not None:
            found |= self._count_entropies(entropies, reached)
        if on_halves is not None:
            found |= {"halved": torch.tensor(1), **count_on_halves(*on_halves, self._severities)}
        self._take(stage, found, {"pairs": counted, "conflicts": below, "cosines": known})

    def _take(self, stage: int, found: Counts, between: Counts) -> None:
        before = self._counted
        has_entropies = "fd" in found
        in_window = {name: found[name] for name in (*_IN_WINDOWS, *(_FEATURES_IN_WINDOWS if has_entropies else ()))}
        # All windows count the same things.
        in_window |= {name: found.get(name, nothing) for name, nothing in self._nothing_on_halves().items()}
        # By one assignment, so that an interrupt leaves the iteration counted wholly or not at all.
        self._counted = _Counted(
            (*before.stages[:stage], added(before.stages[stage], found), *before.stages[stage + 1 :]),
            added(before.between, between),
            before.windows.with_one(in_window),
        )

    def _count_pairs(self, cosine: torch.Tensor, counted: torch.Tensor, norms: torch.Tensor) -> Counts:
        """:param cosine: 0 where it is not counted."""
        similarity = magnitude_similarities(norms).where(counted, 0.0)
        bins = torch.bucketize(cosine, self._inner_edges, right=True)
        histogram = torch.zeros(len(cosine), HISTOGRAM_BINS, dtype=torch.int64)
        return {
            "pairs": counted.sum(1),
            "iterations": counted.any(1).long(),
            "z_conflicts": ((cosine.unsqueeze(-1) < self._z_bounds) & counted.unsqueeze(-1)).sum(1),
            "histogram": histogram.scatter_add_(1, bins, counted.long()),
            "cosines": cosine.sum(1),
            "squares": cosine.square().sum(1),
            "similarities": similarity.sum(1),
            # -2 <g_i, g_j> / (|g_i|^2 + |g_j|^2), where that is above 0.
            "oppositions": (similarity * -cosine.clamp(max=0.0)).sum(1),
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
            "fd_iterations": measured.long(),
            "positions": entropies.positions.where(counted, 0),
            "silent_positions": entropies.silent.where(counted, 0),
        }

    def state(self) -> dict[str, torch.Tensor]:
        """All counts and sums, by name and then by stage."""
        stages, between = self._counted.stages, self._counted.between
        return {
            **{name: torch.stack([stage[name] for stage in stages]) for name in stages[0]},
            **{_BETWEEN + name: tensor for name, tensor in between.items()},
            **{_WINDOWS + name: tensor for name, tensor in self._counted.windows.state().items()},
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over counts that another tally of the same layers, tasks, stages and severities gave.

        :raises ReconError: if they are of another shape.
        """
        stages, between = self._counted.stages, self._counted.between
        shapes = {name: (len(stages), *tensor.shape) for name, tensor in stages[0].items()}
        shapes |= {_BETWEEN + name: tuple(tensor.shape) for name, tensor in between.items()}
        for name, shape in shapes.items():
            if name not in state or tuple(state[name].shape) != shape:
                raise ReconError(f"the saved counts {quoted(name)} are of other layers, stages or severities")
        windows = {name.removeprefix(_WINDOWS): each for name, each in state.items() if name.startswith(_WINDOWS)}
        self._counted = _Counted(
            tuple(
                {name: state[name][number].to(own, copy=True) for name, own in stage.items()}
                for number, stage in enumerate(stages)
            ),
            {name: state[_BETWEEN + name].to(own, copy=True) for name, own in between.items()},
            Windows.from_state(windows),
        )

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
        return tuple(int(stage["stage_iterations"]) for stage in self._counted.stages)

    def task_iterations(self) -> tuple[int, ...]:
        """In how many iterations each task had a loss."""
        return tuple(self._total("task_iterations").tolist())

    def halved(self) -> int:
        """In how many iterations halves of batches were measured."""
        return int(self._total("halved"))

    def pair_iterations(self) -> tuple[int, ...]:
        """In how many iterations both tasks of a pair had a loss, pairs in the order (0, 1), (0, 2), ..."""
        return tuple(self._total("pair_iterations").tolist())

    def layer_stages(self, layer: int) -> tuple[LayerStage, ...]:
        """What was counted for one layer, stage by stage."""
        return tuple(
            _layer_stage(stage, layer, has_size=layer < self._sized, halves=self._halves(stage, layer))
            for stage in self._counted.stages
        )

    def feature_stages(self, feature: int) -> tuple[FeatureStage, ...]:
        """What was counted for one shared representation, stage by stage."""
        return tuple(_feature_stage(stage, feature) for stage in self._counted.stages)

    def windows(self) -> tuple[int, ...]:
        """How many iterations each window of time holds."""
        return self._counted.windows.lengths

    def over_time(self, severity: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The S-conflict score and the number of pairs of every layer in each window of time, [W, L] each.

        :param severity: index of S among the severities.
        """
        windows = self._counted.windows.counts
        nothing = self._counted.stages[0]["pairs"].unsqueeze(0)[:0]
        below = torch.cat([nothing, *(counts["conflicts"][None, :, severity] for counts in windows)])
        return below, torch.cat([nothing, *(counts["pairs"].unsqueeze(0) for counts in windows)])

    def layer_series(self, layer: int) -> Series:
        """What was counted for one layer, window by window."""
        return Series(**self._series(layer))

    def feature_series(self, feature: int) -> FeatureSeries:
        """What was counted for one shared representation, window by window."""
        stage = self._counted.stages[0]
        layer = len(stage["pairs"]) - len(stage["fd"]) + feature
        fd = _means(self._column("fd", feature), self._column("fd_iterations", feature))
        return FeatureSeries(**self._series(layer), fd=fd)

    def between(self, layer: int) -> Between:
        """What was counted for one layer between each two tasks."""
        counted = {name: tensor[layer] for name, tensor in self._counted.between.items()}
        return Between(
            pairs=tuple(counted["pairs"].tolist()),
            conflicts=_rows(counted["conflicts"]),
            cosines=_means(counted["cosines"], counted["pairs"]),
        )

    def _halves(self, stage: Counts, layer: int) -> Halves | None:
        if self._halved is None:
            return None
        pairs, same, cross = (stage[name][layer] for name in ON_HALVES)
        return Halves(pairs=int(pairs), same=tuple(same.tolist()), cross=tuple(cross.tolist()))

    def _half_series(self, layer: int) -> HalfSeries | None:
        if self._halved is None or layer >= self._halved:
            return None
        pairs, same, cross = (self._column(name, layer) for name in ON_HALVES)
        return HalfSeries(pairs=tuple(pairs.tolist()), same=_rows(same), cross=_rows(cross))

    def _series(self, layer: int) -> dict[str, Any]:
        columns = {name: self._column(name, layer) for name in _IN_WINDOWS}
        pairs = columns["pairs"]
        return {
            "iterations": tuple(columns["iterations"].tolist()),
            "pairs": tuple(pairs.tolist()),
            "conflicts": _rows(columns["conflicts"]),
            "z_conflicts": _rows(columns["z_conflicts"]) if layer < self._sized else (),
            "gds": _means(columns["cosines"], pairs),
            "gms": _means(columns["similarities"], pairs),
            "opposition": _means(columns["oppositions"], pairs),
            "halves": self._half_series(layer),
        }

    def _column(self, name: str, row: int) -> torch.Tensor:
        """What was counted by one name in one row, window by window."""
        # Of no window, too, the shape is known.
        nothing = self._counted.stages[0][name][row].unsqueeze(0)[:0]
        return torch.cat([nothing, *(counts[name][row].unsqueeze(0) for counts in self._counted.windows.counts)])

    def _total(self, name: str) -> torch.Tensor:
        return torch.stack([stage[name] for stage in self._counted.stages]).sum(0)


def _counts(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _sums(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _count_norms(norms: torch.Tensor, reached: torch.Tensor) -> Counts:
    known = reached & norms.isfinite()
    return {"norms": norms.where(known, 0.0), "norm_iterations": known}


def _rows(columns: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in columns.T.tolist())


def _means(sums: torch.Tensor, numbers: torch.Tensor) -> tuple[float | None, ...]:
    pairs = zip(sums.tolist(), numbers.tolist(), strict=True)
    # Adding 0 turns a rounded -0.0 into 0.0.
    return tuple(round(total / number, _DECIMALS) + 0.0 if number else None for total, number in pairs)


def _feature_stage(stage: Counts, feature: int) -> FeatureStage:
    layer = len(stage["pairs"]) - len(stage["fd"]) + feature
    iterations = int(stage["fd_iterations"][feature])
    return FeatureStage(
        **dict(_layer_stage(stage, layer, has_size=False)),
        fd=float(stage["fd"][feature]) / iterations if iterations else None,
        fd_iterations=iterations,
        positions=int(stage["positions"][feature]),
        silent_positions=int(stage["silent_positions"][feature]),
    )


def _layer_stage(stage: Counts, layer: int, *, has_size: bool, halves: Halves | None = None) -> LayerStage:
    pairs = int(stage["pairs"][layer])
    gds = float(stage["cosines"][layer]) / pairs if pairs else None
    norm_iterations = stage["norm_iterations"][layer].tolist()
    return LayerStage(
        pairs=pairs,
        non_finite=int(stage["non_finite"][layer]),
        iterations=int(stage["iterations"][layer]),
        conflicts=tuple(stage["conflicts"][layer].tolist()),
        histogram=Histogram.from_counts(stage["histogram"][layer].tolist()),
        z_conflicts=tuple(stage["z_conflicts"][layer].tolist()) if has_size else None,
        gds=gds,
        # Rounding may take it below 0.
        deviation=None if gds is None else sqrt(max(0.0, float(stage["squares"][layer]) / pairs - gds**2)),
        gms=float(stage["similarities"][layer]) / pairs if pairs else None,
        opposition=float(stage["oppositions"][layer]) / pairs if pairs else None,
        norms=tuple(
            total / times if times else None
            for total, times in zip(stage["norms"][layer].tolist(), norm_iterations, strict=True)
        ),
        norm_iterations=tuple(norm_iterations),
        halves=halves,
    )
