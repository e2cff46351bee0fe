"""The scores of a profile: per layer and stage, how the cosines of the task gradients are distributed.

The histogram's bins are [k/200 - 1, (k+1)/200 - 1), k = 0..399, with cosine 1 in the last. Their edges are the doubles
nearest to those decimals, so the number of cosines strictly below any edge is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb, log
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.frames import Cell, FrameContent, Framed
from recon_cli.artifacts.method import Method
from recon_cli.artifacts.series import Between, FeatureSeries, Series
from recon_cli.artifacts.versions import Versions
from recon_cli.errors import ReconError, listed, number

HISTOGRAM_BINS = 400
BIN_WIDTH = 2 / HISTOGRAM_BINS
Z_LEVELS = (-1.0, -2.0, -3.0)
"""In units of 1 / sqrt(d), the standard deviation of the cosine of random directions in d dimensions."""

_ROUNDING = 1e-6

Count = Annotated[int, Field(ge=0)]
Norm = Annotated[float, Field(ge=0)]


def histogram_edge(index: int) -> float:
    """The lower edge of a histogram bin, the double nearest to `index / 200 - 1`."""
    half = HISTOGRAM_BINS // 2
    return (index - half) / half


def edge_index(cosine: float) -> int | None:
    """The histogram bin that has this lower edge (400 for the upper edge of the last), or None if none has."""
    if not abs(cosine) <= 1:
        return None
    index = round((cosine + 1) * HISTOGRAM_BINS / 2)
    return index if histogram_edge(index) == cosine else None


class Histogram(Record):
    """How many cosines fell into each bin; leading and trailing empty bins are left out."""

    first: int = Field(ge=0, lt=HISTOGRAM_BINS)
    counts: tuple[int, ...]

    @classmethod
    def from_counts(cls, counts: Sequence[int]) -> Histogram:
        """Trim the counts of all bins."""
        filled = [index for index, count in enumerate(counts) if count]
        if not filled:
            return cls(first=0, counts=())
        return cls(first=filled[0], counts=tuple(counts[filled[0] : filled[-1] + 1]))

    def below(self, edge: int) -> int:
        """The number of cosines strictly below the lower edge of bin `edge`."""
        return sum(self.counts[: max(0, edge - self.first)])

    @model_validator(mode="after")
    def _fits(self) -> Histogram:
        if self.first + len(self.counts) > HISTOGRAM_BINS or any(count < 0 for count in self.counts):
            raise ValueError("the histogram does not fit its bins")
        return self


class Halves(Record):
    """What was counted for one layer on the two halves of batches.

    Of tasks i and j, the gradient of i on one half and that of j on the same half are a pair that has the samples in
    common; the gradient of i on one half and that of j on the other half are one that has none. There are two of either
    for each two tasks and iteration, counted where all four gradients are finite.
    """

    pairs: int = Field(ge=0, description="pairs that have the samples in common, and as many that have none")
    same: tuple[Count, ...] = Field(
        description="for each of the severities, the pairs with the samples in common with a cosine strictly below it"
    )
    cross: tuple[Count, ...] = Field(description="the same of the pairs that have no samples in common")

    @model_validator(mode="after")
    def _consistent(self) -> Halves:
        if any(count > self.pairs for count in (*self.same, *self.cross)):
            raise ValueError("there are more conflicts on halves than pairs")
        return self


class LayerStage(Record):
    """What was counted for one layer in one stage."""

    pairs: int = Field(ge=0, description="task pairs measured, summed over the iterations")
    non_finite: int = Field(ge=0, description="pairs left out because a gradient held NaN or an infinity")
    iterations: int = Field(ge=0, description="iterations in which at least one pair was measured")
    conflicts: tuple[Count, ...] = Field(description="S-conflict score for each of the severities")
    z_conflicts: tuple[Count, ...] | None = Field(
        default=None,
        description="for each of the `z_levels`, the pairs with cos sqrt(d) strictly below it, d the layer's number of "
        "parameters; null where the gradient is not that of one layer",
    )
    histogram: Histogram
    gds: float | None = Field(
        ge=-1, le=1, description="gradient direction similarity: mean cosine of the pairs; null without pairs"
    )
    deviation: float | None = Field(
        default=None, ge=0, description="standard deviation of the cosines of the pairs; null without pairs"
    )
    gms: float | None = Field(
        ge=0,
        le=1,
        description="gradient magnitude similarity: mean of 2|g_i||g_j| / (|g_i|^2 + |g_j|^2) over the pairs, "
        "1 where both norms are 0; null without pairs",
    )
    opposition: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="magnitude-weighted conflict: mean of max(0, -2<g_i, g_j> / (|g_i|^2 + |g_j|^2)) over the pairs; "
        "null without pairs",
    )
    norms: tuple[Norm | None, ...] = Field(
        description="for each task, the mean norm of its gradient of the layer; null where it never had one"
    )
    norm_iterations: tuple[Count, ...] = Field(
        description="for each task, the iterations in which it had a finite gradient of the layer"
    )
    halves: Halves | None = Field(
        default=None, description="what was counted on halves of batches; null where they were not measured"
    )

    @model_validator(mode="after")
    def _consistent(self) -> LayerStage:
        if any(count > self.pairs for count in (*self.conflicts, *(self.z_conflicts or ()))):
            raise ValueError("there are more conflicts than pairs")
        if sum(self.histogram.counts) != self.pairs:
            raise ValueError("the histogram does not add up to the pairs")
        if (self.gds is None or self.gms is None) != (self.pairs == 0) or (self.gds is None) != (self.gms is None):
            raise ValueError("`gds` and `gms` are there exactly where pairs were measured")
        if (self.iterations == 0) != (self.pairs == 0) or self.iterations > self.pairs:
            raise ValueError("the pairs do not fit the iterations")
        if [norm is None for norm in self.norms] != [times == 0 for times in self.norm_iterations]:
            raise ValueError("`norms` are there exactly where `norm_iterations` are not 0")
        return self


class FeatureStage(LayerStage):
    """What was counted for one shared representation Z in one stage; its gradients are the dL_i/dZ."""

    fd: float | None = Field(
        ge=0,
        description="Feature Disentanglement: mean over the iterations of the mean entropy, in nats, of the tasks' "
        "saliencies at the positions of Z that are salient to any task; 0 to the logarithm of the number of tasks; "
        "null where it was never measured",
    )
    fd_iterations: int = Field(
        ge=0, description="iterations in which two tasks or more reached Z, with finite gradients that were not all 0"
    )
    positions: int = Field(ge=0, description="positions of Z salient to any task, summed over the iterations")
    silent_positions: int = Field(ge=0, description="positions left out because every task's gradient was 0 there")

    @model_validator(mode="after")
    def _measured(self) -> FeatureStage:
        if (self.fd is None) != (self.fd_iterations == 0) or self.positions < self.fd_iterations:
            raise ValueError("`fd` is there exactly where `fd_iterations` and `positions` are not 0")
        if self.positions and not self.fd_iterations:
            raise ValueError("there are positions without an iteration")
        return self


class ScoredLayer(Record):
    """One shared layer: what it is, and what was counted for it."""

    name: str
    type: str = Field(description="class name of the module, or Parameter")
    aliases: tuple[str, ...] = Field(description="further names of the layer, of tied or reused modules")
    parameters: tuple[str, ...] = Field(description="qualified names of its parameters, each tensor once")
    size: int = Field(ge=0, description="number of parameters")
    bytes: int = Field(ge=0)
    tasks: tuple[str, ...] = Field(description="tasks whose losses reach the layer")
    stages: tuple[LayerStage, ...]
    series: Series | None = Field(default=None, description="what was counted in each of the `windows`")
    between: Between | None = Field(default=None, description="what was counted between each two tasks")


class ScoredFeature(Record):
    """One shared representation, and what was measured of it."""

    name: str = Field(description="of the module whose output it is")
    tasks: tuple[str, ...] = Field(description="tasks whose losses reach it")
    stages: tuple[FeatureStage, ...]
    series: FeatureSeries | None = Field(default=None, description="what was counted in each of the `windows`")


class UnrankedLayer(Record):
    """A layer that takes no part in a ranking, and why."""

    name: str
    aliases: tuple[str, ...] = ()
    reason: Literal["private", "excluded", "unused", "frozen", "buffers"]
    tasks: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()


class HalvedIterations(Record):
    """In which iterations the halves of the batch were measured as well."""

    every: int = Field(ge=1, description="n: the measured iterations 0, n, 2n, ... were chosen")
    iterations: int = Field(ge=0, description="those of them in which it was done")
    skipped: int = Field(ge=0, description="those in which it was not, because a batch had but one item")


class Settled(Record):
    """What a profile stopped for."""

    k: int = Field(ge=1, description="how many layers count as the first")
    severity: float = Field(gt=-1, le=0, description="S of the score that they are the first by")
    overlap: float = Field(
        ge=0, le=1, description="which share of their first two halves of the profile have in common"
    )


class Scores(Framed, Document):
    """What `recon profile` measured."""

    SCHEMA: ClassVar[str] = "recon.scores/1"
    MADE_BY: ClassVar[str] = "recon profile"
    INDENT: ClassVar[int | None] = None

    tasks: tuple[str, ...]
    complete: bool = Field(
        description="false if the profile ended before its last step, other than because its ranking had settled"
    )
    settled: Settled | None = Field(
        default=None, description="the first layers of the ranking, if the profile ended early because they had settled"
    )
    steps: int = Field(ge=0, description="training steps made")
    steps_requested: int = Field(ge=1)
    iterations: int = Field(ge=0, description="steps measured")
    iterations_requested: int = Field(ge=1, description="steps that were to be measured")
    stage_iterations: tuple[Count, ...] = Field(min_length=1, description="iterations measured in each stage")
    windows: tuple[Count, ...] = Field(
        default=(), description="iterations measured in each window of time: equal parts, but for the last"
    )
    task_iterations: tuple[Count, ...] = Field(description="measured iterations in which each task had a loss")
    halves: HalvedIterations | None = Field(
        default=None, description="null if halves of batches were not measured (`profile.halves_every`)"
    )
    pair_iterations: tuple[Count, ...] = Field(
        description="measured iterations in which both tasks of a pair had a loss, in the order (0, 1), (0, 2), ..."
    )
    method: Method = Field(description="the update rule that the network was trained by, and what it saw")
    seed: int | None = Field(description="null if the profile ran in somebody's own loop")
    device: str
    batch_restarts: int = Field(ge=0, description="how often the data was started over")
    severities: tuple[float, ...]
    z_levels: tuple[float, ...] = ()
    histogram_bins: Literal[400] = 400
    config_digest: str | None
    model_digest: str | None = Field(
        default=None, description="of the TorchScript file or exported program profiled, if any"
    )
    checkpoint_digest: str | None
    versions: Versions
    trunk: tuple[LayerStage, ...] = Field(description="the same for all shared layers' gradients as one vector")
    trunk_series: Series | None = None
    trunk_between: Between | None = None
    layers: tuple[ScoredLayer, ...]
    features: tuple[ScoredFeature, ...] = Field(
        default=(), description="shared representations that were named; they take no part in a ranking"
    )
    unranked: tuple[UnrankedLayer, ...]
    flow: Dataflow | None = Field(
        default=None, description="the network's data flow on the first batch, from which follows what splits cost"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Scores:
        if self.settled is not None and (not self.complete or self.settled.k >= len(self.layers)):
            raise ValueError("`settled` is of a profile that is not complete, or of all its layers")
        if sum(self.stage_iterations) != self.iterations:
            raise ValueError("the iterations of the stages do not add up")
        for what, named in (
            ("task", self.tasks),
            ("layer", [layer.name for layer in self.layers]),
            ("severity", self.severities),
            ("z level", self.z_levels),
        ):
            if len(set(named)) < len(named):
                raise ValueError(f"a {what} is listed twice")
        self._check_presence()
        self._check_stages("the trunk", self.trunk, self.tasks)
        for layer in self.layers:
            if not set(layer.tasks) <= set(self.tasks):
                raise ValueError(f"layer {layer.name!r} is reached by tasks that are not there")
            self._check_stages(f"layer {layer.name!r}", layer.stages, layer.tasks)
        self._check_features()
        self._check_series()
        if self.flow is not None and self.flow.tasks != self.tasks:
            raise ValueError("the data flow is of other tasks")
        return self

    def _check_features(self) -> None:
        for feature in self.features:
            name = f"feature {feature.name!r}"
            if not set(feature.tasks) <= set(self.tasks):
                raise ValueError(f"{name} is reached by tasks that are not there")
            self._check_stages(name, feature.stages, feature.tasks)
            for stage, iterations in zip(feature.stages, self.stage_iterations, strict=True):
                if stage.fd_iterations > iterations:
                    raise ValueError(f"{name} was measured in more iterations than its stage has")
                if stage.fd is not None and stage.fd > log(len(feature.tasks) or 1) + _ROUNDING:
                    raise ValueError(f"{name} has an FD above the logarithm of the number of its tasks")

    def _check_series(self) -> None:
        if self.windows and sum(self.windows) != self.iterations:
            raise ValueError("the iterations of the windows do not add up")
        parts: list[tuple[str, Sequence[LayerStage], Series | None, Between | None]] = [
            ("the trunk", self.trunk, self.trunk_series, self.trunk_between),
            *((f"layer {layer.name!r}", layer.stages, layer.series, layer.between) for layer in self.layers),
            *((f"feature {feature.name!r}", feature.stages, feature.series, None) for feature in self.features),
        ]
        for name, stages, series, between in parts:
            counted = sum(stage.pairs for stage in stages)
            conflicts = [sum(column) for column in zip(*(stage.conflicts for stage in stages), strict=True)]
            if series is not None and len(series.pairs) != len(self.windows):
                raise ValueError(f"{name} has not one entry per window")
            if between is not None and len(between.pairs) != comb(len(self.tasks), 2):
                raise ValueError(f"{name} has not one entry per pair of tasks")
            for part in (series, between):
                if part is None:
                    continue
                if sum(part.pairs) != counted or [sum(row) for row in part.conflicts] != conflicts:
                    raise ValueError(f"{name} does not count the same over time, or between tasks, as in its stages")
            self._check_halves_over_time(name, stages, series)

    @staticmethod
    def _check_halves_over_time(name: str, stages: Sequence[LayerStage], series: Series | None) -> None:
        halves = [stage.halves for stage in stages if stage.halves is not None]
        if series is None or series.halves is None:
            return
        rows = [series.halves.pairs, *series.halves.same, *series.halves.cross]
        counts = [[half.pairs, *half.same, *half.cross] for half in halves]
        if [sum(row) for row in rows] != [sum(column) for column in zip(*counts, strict=True)]:
            raise ValueError(f"{name} does not count the same on halves over time as in its stages")

    def _check_presence(self) -> None:
        tasks = len(self.tasks)
        if (len(self.task_iterations), len(self.pair_iterations)) != (tasks, comb(tasks, 2)):
            raise ValueError("`task_iterations` and `pair_iterations` have not one entry per task and pair")
        if any(count > self.iterations for count in self.task_iterations):
            raise ValueError("a task was there in more iterations than were measured")
        for (one, two), both in zip(combinations(self.task_iterations, 2), self.pair_iterations, strict=True):
            if not one + two - self.iterations <= both <= min(one, two):
                raise ValueError("`pair_iterations` do not fit `task_iterations`")

    def _check_stages(self, name: str, stages: Sequence[LayerStage], tasks: Sequence[str]) -> None:
        """Check what was counted for a layer.

        :param tasks: the tasks that may reach it.
        """
        if len(stages) != len(self.stage_iterations):
            raise ValueError(f"{name} has not one entry per stage")
        if any(len(stage.conflicts) != len(self.severities) for stage in stages):
            raise ValueError(f"{name} has not one count per severity")
        for halves in (stage.halves for stage in stages if stage.halves is not None):
            if (len(halves.same), len(halves.cross)) != (len(self.severities), len(self.severities)):
                raise ValueError(f"{name} has not one count on halves per severity")
            if self.halves is None or halves.pairs > 2 * self.halves.iterations * comb(len(tasks), 2):
                raise ValueError(f"{name} has more pairs on halves than the iterations allow")
        if any(len(stage.z_conflicts or self.z_levels) != len(self.z_levels) for stage in stages):
            raise ValueError(f"{name} has not one count per z level")
        if any(len(stage.norms) != len(self.tasks) for stage in stages):
            raise ValueError(f"{name} has not one norm per task")
        for stage, iterations in zip(stages, self.stage_iterations, strict=True):
            if max(stage.iterations, *stage.norm_iterations) > iterations:
                raise ValueError(f"{name} was measured in more iterations than its stage has")
            if stage.pairs > stage.iterations * comb(len(tasks), 2):
                raise ValueError(f"{name} has more pairs in a stage than its iterations allow")
        reaching = set(tasks)
        found = [sum(column) for column in zip(*(stage.norm_iterations for stage in stages), strict=True)]
        for task, times, limit in zip(self.tasks, found, self.task_iterations, strict=True):
            if times > (limit if task in reaching else 0):
                raise ValueError(f"{name} has gradients of task {task!r} in more iterations than the task was there")
        pairs = zip(combinations(self.tasks, 2), self.pair_iterations, strict=True)
        together = sum(times for (one, two), times in pairs if one in reaching and two in reaching)
        if sum(stage.pairs + stage.non_finite for stage in stages) > together:
            raise ValueError(f"{name} has more pairs than its tasks were there together")

    def conflicts(self, layer: ScoredLayer | ScoredFeature | None, severity: float, stage: int | None = None) -> int:
        """The S-conflict score of a layer (Recon, Definition 3), summed over iterations.

        :param layer: one of `layers` or `features`, or None for the trunk.
        :param severity: S; the score counts the pairs with a cosine strictly below it.
        :param stage: a stage, counted from 1, or None for all.
        :raises ReconError: if the file does not hold the count for this severity exactly.
        """
        return sum(self._count(part, severity) for part in self._stages(layer, stage))

    def can_count(self, severity: float) -> bool:
        """Whether :meth:`conflicts` knows the number of cosines below a severity."""
        return severity in self.severities or edge_index(severity) is not None

    def below(self, layer: ScoredLayer | ScoredFeature | None, edge: int, stage: int | None = None) -> int:
        """The number of task pairs with a cosine strictly below the lower edge of bin `edge` of the histogram."""
        return sum(part.histogram.below(edge) for part in self._stages(layer, stage))

    def pairs(self, layer: ScoredLayer | ScoredFeature | None, stage: int | None = None) -> int:
        """The number of task pairs that were measured for a layer, summed over iterations."""
        return sum(part.pairs for part in self._stages(layer, stage))

    def halves_of(self, layer: ScoredLayer | None, severity: float, stage: int | None = None) -> tuple[int, int, int]:
        """What was counted for a layer on halves of batches: the pairs of either kind, how many of those that have the
        samples in common had a cosine strictly below a severity, and how many of those that have none; see `Halves`.

        :param layer: one of `layers`, or None for the trunk.
        :param severity: S, one of the `severities`.
        :param stage: a stage, counted from 1, or None for all.
        :raises ReconError: if halves were not measured, or not counted at this severity.
        """
        self.check_halves(severity)
        at = self.severities.index(severity)
        found = [part.halves for part in self._stages(layer, stage) if part.halves is not None]
        return (
            sum(part.pairs for part in found),
            sum(part.same[at] for part in found),
            sum(part.cross[at] for part in found),
        )

    def check_halves(self, severity: float) -> None:
        """Refuse scores that do not say what was counted on halves of batches below a severity.

        :raises ReconError: saying what to do.
        """
        if self.halves is None:
            raise ReconError(
                "the scores hold nothing that was counted on halves of batches",
                "set `halves_every: 10` under `profile` in the config, and profile again",
            )
        if self.halves.iterations == 0:
            raise ReconError(
                "no batch was measured in halves: each that was to be had but one item", "profile with larger batches"
            )
        if severity not in self.severities:
            grid = ", ".join(number(value) for value in self.severities)
            raise ReconError(
                f"conflicts below {number(severity)} were not counted on halves of batches", f"choose one of {grid}"
            )

    def non_finite(self, layer: ScoredLayer | ScoredFeature | None, stage: int | None = None) -> int:
        """The number of task pairs that were left out for a layer, because a gradient was not finite."""
        return sum(part.non_finite for part in self._stages(layer, stage))

    def layer_iterations(self, layer: ScoredLayer | ScoredFeature | None, stage: int | None = None) -> int:
        """The number of iterations in which at least one task pair was measured for a layer."""
        return sum(part.iterations for part in self._stages(layer, stage))

    def gds(self, layer: ScoredLayer | ScoredFeature | None, stage: int | None = None) -> float | None:
        """Gradient direction similarity: the mean cosine of the task pairs measured for a layer; None without any."""
        return _mean((part.gds, part.pairs) for part in self._stages(layer, stage))

    def gms(self, layer: ScoredLayer | ScoredFeature | None, stage: int | None = None) -> float | None:
        """Gradient magnitude similarity: the mean over the task pairs measured for a layer; None without any."""
        return _mean((part.gms, part.pairs) for part in self._stages(layer, stage))

    def norms(self, layer: ScoredLayer | ScoredFeature | None, stage: int | None = None) -> tuple[float | None, ...]:
        """For each task, the mean norm of its gradient of a layer; None where it never had one."""
        parts = self._stages(layer, stage)
        return tuple(
            _mean((part.norms[task], part.norm_iterations[task]) for part in parts) for task in range(len(self.tasks))
        )

    def fd(self, feature: ScoredFeature, stage: int | None = None) -> float | None:
        """Feature Disentanglement, in nats: the mean over the iterations it was measured in; None without any."""
        parts = feature.stages if stage is None else (feature.stages[stage - 1],)
        return _mean((part.fd, part.fd_iterations) for part in parts)

    def frame_content(self) -> FrameContent:
        """One row for every layer and stage, in the network's order; the trunk and features are left out."""
        halves = ("same", "cross") if self.halves is not None else ()
        columns: dict[str, type] = {
            "layer": str, "type": str, "parameters": int, "bytes": int, "tasks": list, "stage": int,
            "iterations": int, "pairs": int, "non_finite": int,
            **{f"conflicts_{number(severity)}": int for severity in self.severities},
            **{f"z_conflicts_{number(level)}": int for level in self.z_levels},
            "gds": float, "deviation": float, "gms": float, "opposition": float,
            **({"half_pairs": int} if self.halves is not None else {}),
            **{f"{kind}_{number(severity)}": int for kind in halves for severity in self.severities},
            **{f"norm_{task}": float for task in self.tasks},
            **{f"iterations_{task}": int for task in self.tasks},
        }  # fmt: skip
        rows: list[Sequence[Cell]] = []
        for layer in self.layers:
            what = (layer.name, layer.type, layer.size, layer.bytes, list(layer.tasks))
            for place, stage in enumerate(layer.stages, start=1):
                z_conflicts = stage.z_conflicts or [None] * len(self.z_levels)
                rows.append((
                    *what, place, stage.iterations, stage.pairs, stage.non_finite, *stage.conflicts, *z_conflicts,
                    stage.gds, stage.deviation, stage.gms, stage.opposition, *self._half_cells(stage),
                    *stage.norms, *stage.norm_iterations,
                ))  # fmt: skip
        return FrameContent(columns, rows)

    def _half_cells(self, stage: LayerStage) -> Sequence[int | None]:
        """What was counted on halves of batches; nothing if they were not measured."""
        if self.halves is None:
            return ()
        found = stage.halves
        return (found.pairs, *found.same, *found.cross) if found else [None] * (1 + 2 * len(self.severities))

    def _stages(self, layer: ScoredLayer | ScoredFeature | None, stage: int | None) -> tuple[LayerStage, ...]:
        stages = self.trunk if layer is None else layer.stages
        return stages if stage is None else (stages[stage - 1],)

    def _count(self, part: LayerStage, severity: float) -> int:
        if severity in self.severities:
            return part.conflicts[self.severities.index(severity)]
        edge = edge_index(severity)
        if edge is not None:
            return part.histogram.below(edge)
        grid = ", ".join(number(value) for value in self.severities)
        raise ReconError(
            f"the scores hold no exact count for the severity {number(severity)}",
            f"choose a multiple of {BIN_WIDTH:g} in (-1, 0], or one of those counted directly: {grid}",
        )

    def check_stage(self, stage: int) -> None:
        """Refuse a stage that the scores do not have.

        :raises ReconError: if there is no such stage or nothing was measured in it.
        """
        number = len(self.stage_iterations)
        if not 1 <= stage <= number:
            raise ReconError(f"there is no stage {stage}: the scores have stages 1 to {number}")
        if self.stage_iterations[stage - 1] == 0:
            measured = [index for index, count in enumerate(self.stage_iterations, start=1) if count]
            early = "" if self.settled is None else ", as the ranking had settled before"
            raise ReconError(
                f"nothing was measured in stage {stage}{early}",
                f"choose one of {listed(measured)}" if measured else None,
            )


def _mean(parts: Iterable[tuple[float | None, int]]) -> float | None:
    """The mean over all parts, from each part's mean and the number of values that it is of."""
    known = [(mean, number) for mean, number in parts if mean is not None]
    total = sum(number for _, number in known)
    return sum(mean * number for mean, number in known) / total if total else None
