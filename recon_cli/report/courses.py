"""How alike the tasks' gradients were over time: GDS, GMS and FD."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from recon_cli.artifacts.scores import Scores
from recon_cli.relations.courses import courses_of, last_iterations
from recon_cli.report.words import shown


@dataclass(frozen=True)
class Line:
    """How a measure went; None where it was not measured.

    :ivar feature: the shared representation that FD is of; None for GDS and GMS.
    :ivar values: its mean in each window of time.
    :ivar smoothed: over a tenth of the profile up to each window.
    :ivar last: at the end.
    """

    measure: str
    feature: str | None
    values: tuple[float | None, ...]
    smoothed: tuple[float | None, ...]
    last: float | None


@dataclass(frozen=True)
class Courses:
    """The measures over time, of all shared layers as one vector.

    :ivar ends: how many steps were measured up to the end of each window.
    :ivar last_iterations: how many of them the values at the end are of.
    """

    ends: tuple[int, ...]
    last_iterations: int
    lines: tuple[Line, ...]


def lines_of(scores: Scores) -> Courses | None:
    """The measures of a profile over time; None where it holds no course, but a single point at most."""
    found = courses_of(scores, None)
    if not found or len(scores.windows) < 2:
        return None
    return Courses(
        ends=tuple(accumulate(scores.windows)),
        last_iterations=last_iterations(scores.windows),
        lines=tuple(
            Line(
                each.measure,
                None if each.feature is None else shown(each.feature),
                each.values,
                each.smoothed,
                each.last,
            )
            for each in found
        ),
    )
