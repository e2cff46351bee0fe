"""A ranking: the shared layers by falling conflict score. The authors' own plain `{layer: score}` is read as well."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.document import Document, Record, name_of, read_json
from recon_cli.artifacts.frames import FrameContent, Framed
from recon_cli.artifacts.scores import UnrankedLayer
from recon_cli.errors import ReconError, quoted


class RankedLayer(Record):
    """One layer of a ranking; what a plain ranking does not say is None."""

    name: str
    score: float = Field(description="of the ranking's `kind`")
    pairs: int | None = Field(default=None, description="task pairs measured")
    non_finite: int | None = Field(default=None, description="pairs left out because a gradient was not finite")
    rate: float | None = Field(
        default=None,
        description="share of the measured task pairs with a cosine below the severity, or for `z` with cos sqrt(d) "
        "below its bound",
    )
    interval: tuple[float, float] | None = Field(
        default=None,
        description="95% confidence interval of the rate (Wilson), of as many independent trials as its course over "
        "time shows it to be worth; where that is not known, of one for each iteration; null without any",
    )
    share: float | None = Field(
        default=None, description="share of all layers' scores, as far as they are above 0, that is this layer's"
    )
    size: int | None = Field(default=None, description="number of parameters")
    bytes: int | None = None
    aliases: tuple[str, ...] = ()
    parameters: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = Field(default=None, description="tasks whose losses reach the layer")
    between: tuple[float, ...] | None = Field(
        default=None,
        description="the score between each two of the ranking's tasks i < j, in the order (0, 1), (0, 2), ...; null "
        "of two tasks, and where it is not known",
    )
    position: int | None = Field(
        default=None, ge=1, description="its place among the ranked layers as the model registers them, from 1"
    )
    in_top: float | None = Field(
        default=None, ge=0, le=1, description="in which share of the resamplings it is among the first K"
    )
    places: tuple[int, int] | None = Field(
        default=None, description="between which places it is in 95% of the resamplings, from 1"
    )
    tier: int | None = Field(
        default=None,
        ge=1,
        description="layers of one tier cannot be told apart from the first of it: by how much they differ from one "
        "resampling to the other is enough to explain by how much their scores differ (at 95% for all pairs of layers "
        "together, by Bonferroni)",
    )


class Stability(Record):
    """How far the ranking would be another one had other batches been drawn (block bootstrap over time)."""

    k: int = Field(ge=1)
    resamplings: int = Field(ge=1)
    block: int = Field(ge=1, description="how many successive windows of time are drawn together")
    overlap: float = Field(
        ge=0,
        le=1,
        description="which share of their first K layers two random halves of the profile have in common, in the mean, "
        "as two profiles of half the length would; two of the whole length have more",
    )
    iterations_to_settle: int | None = Field(
        description="how many iterations would tell the layers at places K and K + 1 apart, if they went on as before; "
        "null where their scores are equal, or there is no place K + 1"
    )


class RankingSource(Record):
    """Where a ranking came from."""

    scores_digest: str | None = Field(description="SHA-256 of the scores document")
    config_digest: str | None
    checkpoint_digest: str | None
    complete: bool | None = Field(description="false if the profile ended before its last iteration")


class Ranking(Framed, Document):
    """What `recon rank` made of the scores: layers by falling score, ties in the model's own order."""

    SCHEMA: ClassVar[str] = "recon.ranking/1"
    MADE_BY: ClassVar[str] = "recon rank"

    tasks: tuple[str, ...] | None
    kind: str = Field(default="conflicts", description="what the score is: see `recon rank --explain`")
    severity: float | None = Field(description="S; null for a plain ranking, and for the kind `z`")
    z_bound: float | None = Field(default=None, description="for the kind `z`, the bound of cos sqrt(d)")
    stage: int | None = Field(description="stage counted from 1, or null for the whole profile")
    iterations: int | None
    layers: tuple[RankedLayer, ...]
    unranked: tuple[UnrankedLayer, ...] | None = Field(description="the model's other layers, if they are known")
    source: RankingSource
    stability: Stability | None = None
    flow: Dataflow | None = Field(default=None, description="the network's data flow, as in the scores")

    @model_validator(mode="after")
    def _in_order(self) -> Ranking:
        names = [layer.name for layer in self.layers]
        if not names:
            raise ValueError("the ranking holds no layers")
        if len(set(names)) < len(names):
            raise ValueError("a layer is ranked twice")
        scores = [layer.score for layer in self.layers]
        if scores != sorted(scores, reverse=True):
            raise ValueError("the layers do not stand in the order of falling scores")
        positions = [layer.position for layer in self.layers]
        if any(positions) and sorted(place or 0 for place in positions) != list(range(1, len(positions) + 1)):
            raise ValueError("the positions of the layers are not those from 1 to their number")
        if self.flow is not None and self.flow.tasks != self.tasks:
            raise ValueError("the data flow is of other tasks")
        pairs = math.comb(len(self.tasks or ()), 2)
        if any(layer.between is not None and len(layer.between) != pairs for layer in self.layers):
            raise ValueError("`between` has not one entry per pair of tasks")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names in ranked order."""
        return tuple(layer.name for layer in self.layers)

    def frame_content(self) -> FrameContent:
        """One row for every layer, in ranked order."""
        columns: dict[str, type] = {
            "place": int, "layer": str, "score": float, "rate": float, "interval_low": float, "interval_high": float,
            "share": float, "pairs": int, "non_finite": int, "parameters": int, "bytes": int, "position": int,
            "in_top": float, "place_low": int, "place_high": int, "tier": int, "tasks": list, "aliases": list,
        }  # fmt: skip
        rows = []
        for place, layer in enumerate(self.layers, start=1):
            low, high = layer.interval or (None, None)
            first, last = layer.places or (None, None)
            tasks = None if layer.tasks is None else list(layer.tasks)
            rows.append((
                place, layer.name, layer.score, layer.rate, low, high, layer.share, layer.pairs, layer.non_finite,
                layer.size, layer.bytes, layer.position, layer.in_top, first, last, layer.tier,
                tasks, list(layer.aliases),
            ))  # fmt: skip
        return FrameContent(columns, rows)

    @classmethod
    def read(cls, path: str | Path) -> Ranking:
        """Read a ranking, or the authors' plain `{layer: score}`; `-` is standard input."""
        return cls.from_content(read_json(Path(path)), name_of(Path(path)))

    @classmethod
    def from_content(cls, content: object, source: str) -> Ranking:
        """Validate a ranking that was read already, in either form."""
        if isinstance(content, dict) and content and "schema" not in content:
            return _from_plain(content, source)
        return super().from_content(content, source)


def _from_plain(content: dict[str, Any], source: str) -> Ranking:
    for name, score in content.items():
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise ReconError(
                f"{source} is neither a {Ranking.SCHEMA} document nor a plain mapping from layers to scores: "
                f"{quoted(name)} has no number",
                f"`{Ranking.MADE_BY}` writes a ranking",
            )
    layers = tuple(
        RankedLayer(name=name, score=float(score)) for name, score in sorted(content.items(), key=lambda item: -item[1])
    )
    source_of_plain = RankingSource(scores_digest=None, config_digest=None, checkpoint_digest=None, complete=None)
    return Ranking(
        tasks=None,
        severity=None,
        stage=None,
        iterations=None,
        layers=layers,
        unranked=None,
        source=source_of_plain,
    )
