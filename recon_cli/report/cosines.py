"""How the cosines of the tasks' gradients are distributed: of the whole trunk, and of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recon_cli.artifacts.scores import HISTOGRAM_BINS, Histogram, LayerStage, Scores
from recon_cli.conflicts.runs import Run
from recon_cli.report.words import shown

TRUNK_BINS = 200
LAYER_BINS = 100
"""Into so many equal bins of [-1, 1] cosines are counted; their edges are edges of the scores' own 400 bins."""

_RUNS_BY_LAYER = 3
"""So many runs have a histogram for every layer; the others would make the page large."""


@dataclass(frozen=True)
class Counts:
    """How many cosines lie in each bin, from the first to the last that holds any."""

    first: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Distribution:
    """The cosines of one run.

    :ivar pairs: how many were measured on all shared layers as one vector.
    :ivar trunk: those, in `TRUNK_BINS` bins.
    :ivar layers: for each layer of the report, in `LAYER_BINS` bins; None where it was not measured. Empty for runs
        after the third.
    """

    name: str
    pairs: int
    trunk: Counts
    layers: tuple[Counts | None, ...]


def counts_of(stages: Iterable[LayerStage], bins: int) -> Counts:
    """The cosines of all stages together.

    :param bins: how many bins, a divisor of the scores' 400.
    """
    width = HISTOGRAM_BINS // bins
    totals = [0] * bins
    for stage in stages:
        for place, count in enumerate(stage.histogram.counts, start=stage.histogram.first):
            totals[place // width] += count
    trimmed = Histogram.from_counts(totals)
    return Counts(trimmed.first, trimmed.counts)


def distributions_of(profile: Scores | None, runs: Sequence[Run], layers: Sequence[str]) -> tuple[Distribution, ...]:
    """The cosines of the profile, if it is none of the runs, and of every run.

    :param layers: the names of the report's layers, in its order.
    """
    found = [] if profile is None or any(run.scores is profile for run in runs) else [Run("profile", profile)]
    return tuple(
        _distribution(run, layers if place < _RUNS_BY_LAYER else ()) for place, run in enumerate([*found, *runs])
    )


def _distribution(run: Run, layers: Sequence[str]) -> Distribution:
    known = {layer.name: layer.stages for layer in run.scores.layers}
    return Distribution(
        name=shown(run.name),
        pairs=run.scores.pairs(None),
        trunk=counts_of(run.scores.trunk, TRUNK_BINS),
        layers=tuple(counts_of(known[name], LAYER_BINS) if name in known else None for name in layers),
    )
