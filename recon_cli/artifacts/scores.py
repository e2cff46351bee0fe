"""The scores of a profile: per layer and stage, how the cosines of the task gradients are distributed.

The histogram's bins are [k/200 - 1, (k+1)/200 - 1), k = 0..399, with cosine 1 in the last. Their edges are the doubles
nearest to those decimals, so the number of cosines strictly below any edge is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from recon_cli.artifacts.document import Document, Record
from recon_cli.artifacts.versions import Versions
from recon_cli.errors import ReconError, listed, number

HISTOGRAM_BINS = 400


def histogram_edge(index: int) -> float:
    """The lower edge of a histogram bin, the double nearest to `index / 200 - 1`."""
    half = HISTOGRAM_BINS // 2
    return (index - half) / half


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


class LayerStage(Record):
    """What was counted for one layer in one stage."""

    pairs: int = Field(ge=0, description="task pairs measured, summed over the iterations")
    non_finite: int = Field(ge=0, description="pairs left out because a gradient held NaN or an infinity")
    conflicts: tuple[int, ...] = Field(description="S-conflict score for each of the severities")
    histogram: Histogram


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


class UnrankedLayer(Record):
    """A layer that takes no part in a ranking, and why."""

    name: str
    aliases: tuple[str, ...] = ()
    reason: Literal["private", "excluded", "unused", "frozen", "buffers"]
    tasks: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()


class Scores(Document):
    """What `recon profile` measured."""

    SCHEMA: ClassVar[str] = "recon.scores/1"
    MADE_BY: ClassVar[str] = "recon profile"
    INDENT: ClassVar[int | None] = None

    tasks: tuple[str, ...]
    complete: bool = Field(description="false if the profile ended before its last step")
    steps: int = Field(ge=0, description="training steps made")
    steps_requested: int = Field(ge=1)
    iterations: int = Field(ge=0, description="steps measured")
    iterations_requested: int = Field(ge=1, description="steps that were to be measured")
    stage_iterations: tuple[Annotated[int, Field(ge=0)], ...] = Field(description="iterations measured in each stage")
    method: Literal["joint"]
    seed: int | None = Field(description="null if the profile ran in somebody's own loop")
    device: str
    batch_restarts: int = Field(ge=0, description="how often the data was started over")
    severities: tuple[float, ...]
    histogram_bins: Literal[400] = 400
    config_digest: str | None
    checkpoint_digest: str | None
    versions: Versions
    trunk: tuple[LayerStage, ...] = Field(description="the same for all shared layers' gradients as one vector")
    layers: tuple[ScoredLayer, ...]
    unranked: tuple[UnrankedLayer, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Scores:
        if sum(self.stage_iterations) != self.iterations:
            raise ValueError("the iterations of the stages do not add up")
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            raise ValueError("a layer is listed twice")
        if len(self.trunk) != len(self.stage_iterations):
            raise ValueError("the trunk has not one entry per stage")
        for layer in self.layers:
            if len(layer.stages) != len(self.stage_iterations):
                raise ValueError(f"layer {layer.name!r} has not one entry per stage")
            if any(len(stage.conflicts) != len(self.severities) for stage in layer.stages):
                raise ValueError(f"layer {layer.name!r} has not one count per severity")
            if any(not 0 <= count <= stage.pairs for stage in layer.stages for count in stage.conflicts):
                raise ValueError(f"layer {layer.name!r} has more conflicts than pairs, or fewer than none")
            if any(sum(stage.histogram.counts) != stage.pairs for stage in layer.stages):
                raise ValueError(f"the histogram of layer {layer.name!r} does not add up to its pairs")
            if not set(layer.tasks) <= set(self.tasks):
                raise ValueError(f"layer {layer.name!r} is reached by tasks that are not there")
        return self

    def conflicts(self, layer: ScoredLayer, severity: float, stage: int | None = None) -> int:
        """The S-conflict score of a layer (Recon, Definition 3), summed over iterations.

        :param layer: one of `layers`.
        :param severity: S; the score counts the pairs with a cosine strictly below it.
        :param stage: a stage, counted from 1, or None for all.
        :raises ReconError: if the file does not hold the count for this severity exactly.
        """
        return sum(self._count(part, severity) for part in self._stages(layer, stage))

    def pairs(self, layer: ScoredLayer, stage: int | None = None) -> int:
        """The number of task pairs that were measured for a layer, summed over iterations."""
        return sum(part.pairs for part in self._stages(layer, stage))

    def non_finite(self, layer: ScoredLayer, stage: int | None = None) -> int:
        """The number of task pairs that were left out for a layer, because a gradient was not finite."""
        return sum(part.non_finite for part in self._stages(layer, stage))

    def _stages(self, layer: ScoredLayer, stage: int | None) -> tuple[LayerStage, ...]:
        return layer.stages if stage is None else (layer.stages[stage - 1],)

    def _count(self, part: LayerStage, severity: float) -> int:
        if severity in self.severities:
            return part.conflicts[self.severities.index(severity)]
        half = HISTOGRAM_BINS // 2
        edge = round((severity + 1) * half)
        if 0 <= edge <= HISTOGRAM_BINS and histogram_edge(edge) == severity:
            return part.histogram.below(edge)
        grid = ", ".join(number(value) for value in self.severities)
        raise ReconError(
            f"the scores hold no exact count for the severity {number(severity)}",
            f"choose a multiple of {1 / half:g} in (-1, 0], or one of those counted directly: {grid}",
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
            raise ReconError(
                f"nothing was measured in stage {stage}",
                f"choose one of {listed(measured)}" if measured else None,
            )
