"""Scores of cosines that a test chooses, counted here by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from math import comb
from statistics import fmean

from recon_cli.artifacts.dataflow import Dataflow, Operation
from recon_cli.artifacts.scores import Histogram, LayerStage, ScoredLayer, Scores, UnrankedLayer
from recon_cli.artifacts.versions import Versions
from recon_cli.report.content import Content, content_of
from recon_cli.report.materials import Materials

SEVERITIES = (0.0, -0.01, -0.1)

Stages = Sequence[Sequence[float]]
"""For each stage, the cosines of all pairs, iteration by iteration."""

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "\u202egnp.txt",
    "a\x00b",
    "\u05e9\u05db\u05d1\u05d4",
    "{{script}}",
    "$\\frac{1}{2}$ & \"'`",
    "\u2028\u2029",
    "x" * 10_000,
)
"""Names that break out of markup, scripts, lines, directions, templates and formulas."""


def layer_stage(cosines: Sequence[float], tasks: int, norms: Sequence[float] | None = None) -> LayerStage:
    """What is counted of cosines, a whole number of iterations of all pairs of so many tasks."""
    iterations = len(cosines) // comb(tasks, 2)
    counts = [0] * 400
    for cosine in cosines:
        counts[min(399, math.floor((cosine + 1) * 200 + 1e-9))] += 1
    return LayerStage(
        pairs=len(cosines),
        non_finite=0,
        iterations=iterations,
        conflicts=tuple(sum(cosine < severity for cosine in cosines) for severity in SEVERITIES),
        histogram=Histogram.from_counts(counts),
        gds=fmean(cosines) if cosines else None,
        gms=0.5 if cosines else None,
        norms=tuple((norms or [1.0] * tasks) if cosines else [None] * tasks),
        norm_iterations=(iterations,) * tasks,
    )


def scores(
    layers: Mapping[str, Stages],
    trunk: Stages | None = None,
    *,
    tasks: Sequence[str] = ("left", "right"),
    sizes: Sequence[int] | None = None,
    flow: Dataflow | None = None,
) -> Scores:
    """Scores of these layers; without the trunk's cosines they are those of the first."""
    first = next(iter(layers.values()))
    measured = [len(cosines) // comb(len(tasks), 2) for cosines in first]
    total = sum(measured)
    sizes = sizes or [10 * place for place in range(1, len(layers) + 1)]
    return Scores(
        tasks=tuple(tasks), complete=True, steps=total, steps_requested=max(total, 1), iterations=total,
        iterations_requested=max(total, 1), stage_iterations=tuple(measured), task_iterations=(total,) * len(tasks),
        pair_iterations=(total,) * comb(len(tasks), 2), method="joint", seed=0, device="cpu", batch_restarts=0,
        severities=SEVERITIES, config_digest=None, checkpoint_digest=None, versions=Versions(recon="0", torch="2"),
        trunk=tuple(layer_stage(each, len(tasks), [2.0] * len(tasks)) for each in trunk or first),
        layers=tuple(
            ScoredLayer(
                name=name, type="Linear", aliases=(), parameters=(f"{name}.weight",), size=size, bytes=4 * size,
                tasks=tuple(tasks), stages=tuple(layer_stage(each, len(tasks)) for each in stages),
            )
            for (name, stages), size in zip(layers.items(), sizes, strict=True)
        ),
        unranked=(UnrankedLayer(name="head", reason="private"),), flow=flow,
    )  # fmt: skip


def chain(
    names: Sequence[str], tasks: Sequence[str] = ("left", "right"), flops: Sequence[int] | None = None
) -> Dataflow:
    """The data flow of layers that run one after the other."""
    everyone = tuple(range(len(tasks)))
    return Dataflow(
        tasks=tuple(tasks),
        operations=tuple(
            Operation(
                flops=100 if flops is None else flops[place],
                inputs=(place - 1,) if place else (),
                reads=(f"{name}.weight",),
                moves=(),
                tasks=everyone,
            )
            for place, name in enumerate(names)
        ),
    )


def materials(profile: Scores | None = None, **parts: object) -> Materials:
    """Materials of a profile, and of what else is given."""
    content: dict[str, object] = {
        "profile": profile, "runs": (), "rankings": (), "splits": (), "results": (), "compared_results": None,
        "compared_conflicts": None, "files": (),
    }  # fmt: skip
    return Materials(**{**content, **parts})  # type: ignore[arg-type]


def content(profile: Scores | None = None, severity: float | None = None, **parts: object) -> Content:
    """What a page says of them."""
    return content_of(materials(profile, **parts), severity)
