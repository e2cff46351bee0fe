"""What a layer is scored by, from a scores document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul

from recon_cli.artifacts.cosines import Cosines
from recon_cli.artifacts.scores import LayerStage, ScoredLayer, Scores
from recon_cli.artifacts.series import Series
from recon_cli.branching.plan import split_per_task
from recon_cli.branching.streams import count_flops
from recon_cli.errors import ReconError, number, quoted
from recon_cli.ranking.kinds import Evidence, ScoreKind, Z


@dataclass(frozen=True)
class Course:
    """What was measured of a layer in each window of time.

    :ivar whole: the same over all of them.
    :ivar cosines: their sums.
    :ivar oppositions: their sums.
    :ivar half_pairs: what was counted on halves of batches, as `Evidence` has it; empty where nothing was.
    :ivar same: the same.
    :ivar cross: the same.
    """

    whole: Evidence
    below: Sequence[int]
    pairs: Sequence[int]
    cosines: Sequence[float]
    oppositions: Sequence[float]
    half_pairs: Sequence[int] = ()
    same: Sequence[int] = ()
    cross: Sequence[int] = ()

    def resampled(self, times: Sequence[int]) -> Evidence:
        """What would have been measured if each window had been there so many times.

        The deviation of the cosines, which the windows do not have, is that of all.
        """
        pairs = _weighted(times, self.pairs)
        return replace(
            self.whole,
            pairs=pairs,
            below=_weighted(times, self.below),
            gds=_weighted(times, self.cosines) / pairs if pairs else 0.0,
            opposition=_weighted(times, self.oppositions) / pairs if pairs else 0.0,
            half_pairs=_weighted(times, self.half_pairs),
            same=_weighted(times, self.same),
            cross=_weighted(times, self.cross),
        )


class Measurements:
    """What a scores document says of its layers, by one kind of score.

    :param severity: S, or for `z` the bound of cos sqrt(d).
    :param stage: counted from 1; None for the whole profile.
    :param cosines: those that the scores were counted from, if any severity is to be counted.
    :ivar severity: the same.
    :raises ReconError: if the document lacks what the kind of score needs.
    """

    def __init__(
        self, scores: Scores, kind: ScoreKind, severity: float, stage: int | None, cosines: Cosines | None = None
    ) -> None:
        self.severity = severity
        self._scores, self._kind = scores, kind
        self._stage, self._cosines = stage, cosines
        if kind.name == Z and scores.z_levels and severity not in scores.z_levels:
            levels = ", ".join(number(level) for level in scores.z_levels)
            raise ReconError(
                f"cos sqrt(d) was counted below {levels}, not below {number(severity)}", "pass one of these"
            )
        for name in kind.needs:
            self._check_has(name)
        self._shared_operations = None
        if scores.flow is not None and "flow" in kind.needs:
            self._shared_operations = count_flops(scores.flow, ())

    def of(self, layer: ScoredLayer) -> Evidence:
        """All that was measured of a layer."""
        scores, stage = self._scores, self._stage
        stages = layer.stages if stage is None else layer.stages[stage - 1 : stage]
        gds = scores.gds(layer, stage) or 0.0
        pairs = scores.pairs(layer, stage)
        # Of several stages, the variance around the mean of all is that within them and that between them.
        squares = _sum(part.pairs * ((part.deviation or 0.0) ** 2 + (part.gds or 0.0) ** 2) for part in stages)
        oppositions = _sum(part.pairs * (part.opposition or 0.0) for part in stages)
        on_halves = (0, 0, 0)
        if "halves" in self._kind.needs:
            on_halves = scores.halves_of(layer, self.severity, stage)
        half_pairs, same, cross = on_halves
        return Evidence(
            size=layer.size,
            severity=self.severity,
            pairs=pairs,
            below=self._below(layer, stages),
            gds=gds,
            deviation=max(0.0, squares / pairs - gds**2) ** 0.5 if pairs else 0.0,
            opposition=oppositions / pairs if pairs else 0.0,
            extra_parameters=layer.size * (len(layer.tasks) - 1),
            extra_operations=self._extra_operations(layer),
            half_pairs=half_pairs,
            same=same,
            cross=cross,
        )

    def between(self, layer: ScoredLayer) -> tuple[float, ...] | None:
        """The score of a layer between each two tasks i < j, in the order (0, 1), (0, 2), ...

        None where that is not known: it is counted over the whole profile, at the severities of the grid alone. Of two
        tasks it is the layer's own.
        """
        severities = self._scores.severities
        if not self._kind.between_tasks or self._stage is not None or self.severity not in severities:
            return None
        if layer.between is None or len(self._scores.tasks) == 2:
            return None
        whole, below = self.of(layer), layer.between.conflicts[severities.index(self.severity)]
        counted = zip(layer.between.pairs, below, strict=True)
        return tuple(self._kind.value(replace(whole, pairs=pairs, below=count)) for pairs, count in counted)

    def over_time(self, layer: ScoredLayer) -> Course | None:
        """What was measured of a layer in each window that lies in the stage; None if that is not known."""
        series = layer.series
        rows = None if series is None else self._rows(series)
        if series is None or rows is None:
            return None
        windows = self._windows

        def sums(means: Sequence[float | None]) -> list[float]:
            return [(means[place] or 0.0) * series.pairs[place] for place in windows]

        halves = self._halves_over_time(series)
        return Course(
            self.of(layer),
            below=[rows[place] for place in windows],
            pairs=[series.pairs[place] for place in windows],
            cosines=sums(series.gds),
            oppositions=sums(series.opposition),
            **{name: [row[place] for place in windows] for name, row in halves.items()},
        )

    def _halves_over_time(self, series: Series) -> dict[str, Sequence[int]]:
        """What was counted on halves of batches, by its names in a course."""
        if series.halves is None or "halves" not in self._kind.needs:
            return {}
        at = self._scores.severities.index(self.severity)
        return {
            "half_pairs": series.halves.pairs, "same": series.halves.same[at], "cross": series.halves.cross[at]
        }  # fmt: skip

    @property
    def _windows(self) -> Sequence[int]:
        """The windows that lie in the stage."""
        scores, stage = self._scores, self._stage
        if stage is None:
            return range(len(scores.windows))
        first, last = sum(scores.stage_iterations[: stage - 1]), sum(scores.stage_iterations[:stage])
        ends = list(accumulate(scores.windows))
        return [
            place
            for place, (end, length) in enumerate(zip(ends, scores.windows, strict=True))
            if first <= end - length and end <= last
        ]

    def _below(self, layer: ScoredLayer, stages: Sequence[LayerStage]) -> int:
        if self._kind.name == Z:
            place = self._scores.z_levels.index(self.severity)
            return sum((part.z_conflicts or ())[place] for part in stages)
        if self._cosines is not None:
            return self._cosines.conflicts(layer.name, self.severity, self._stage)
        return self._scores.conflicts(layer, self.severity, self._stage)

    def _rows(self, series: Series) -> Sequence[int] | None:
        levels, rows = (
            (self._scores.z_levels, series.z_conflicts)
            if self._kind.name == Z
            else (self._scores.severities, series.conflicts)
        )
        return rows[levels.index(self.severity)] if self.severity in levels else None

    def _extra_operations(self, layer: ScoredLayer) -> int | None:
        if self._scores.flow is None or self._shared_operations is None:
            return None
        split = split_per_task(layer.name, layer.aliases, self._scores.tasks, layer.tasks)
        return count_flops(self._scores.flow, [split]) - self._shared_operations

    def _check_has(self, name: str) -> None:
        if name == "flow":
            if self._scores.flow is None:
                raise ReconError(
                    f"the score {quoted(self._kind.name)} needs the network's data flow, which the scores do not hold",
                    "profile it again; `recon profile` warns where a network cannot be followed",
                )
        elif name == "halves":
            self._scores.check_halves(self.severity)
        elif any(getattr(part, name) is None and part.pairs for layer in self._scores.layers for part in layer.stages):
            raise ReconError(
                f"the score {quoted(self._kind.name)} needs {quoted(name)}, which scores of old versions do not hold",
                "profile the network again",
            )


def _weighted(times: Sequence[int], values: Sequence[float]) -> float:
    return float(sum(map(mul, times, values)))


def _sum(values: Iterable[float]) -> float:
    return sum(values, 0.0)
