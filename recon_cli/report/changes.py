"""Before and after: how conflicts are distributed in several runs, and by how much they were reduced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from recon_cli.artifacts.conflict_comparison import ComparedRun, ConflictComparison
from recon_cli.conflicts.compare import compare_conflicts
from recon_cli.conflicts.runs import Run
from recon_cli.report.words import shown, signed

_EDGES = (0.0, -0.01, -0.02, -0.03)
"""The intervals of the paper's Table 6."""
_BOUND = -0.01


@dataclass(frozen=True)
class ChangedRun:
    """A run next to the first.

    :ivar masses: the share of its cosines in each interval, of the highest first.
    :ivar below: the share below the bound, with its 95% interval.
    :ivar reduction: by how much that is less than in the first run, in percent; None for the first.
    """

    name: str
    pairs: int
    masses: tuple[float, ...]
    below: float
    low: float
    high: float
    reduction: float | None
    reduction_low: float | None
    reduction_high: float | None
    gds: float


@dataclass(frozen=True)
class Changes:
    """Several runs against the first (Recon, Tables 6 and 8 to 10).

    :ivar of: whose gradients these are.
    :ivar intervals: the names of the intervals, that of the highest cosines first.
    """

    of: str
    bound: float
    intervals: tuple[str, ...]
    runs: tuple[ChangedRun, ...]


def changes_of(runs: Sequence[Run], given: ConflictComparison | None) -> Changes | None:
    """The runs compared, at the edges and the bound of a comparison that is given; or that comparison itself.

    :raises ReconError: if the runs cannot be compared.
    """
    if len(runs) > 1:
        edges, bound = (given.edges, given.bound) if given else (_EDGES, _BOUND)
        given = compare_conflicts(runs, edges=edges, bound=bound)
    if given is None:
        return None
    names = [signed(edge) for edge in given.edges]
    of = "all shared layers as one vector" if given.layer is None else shown(given.layer)
    return Changes(
        of=of if given.stage is None else f"{of}, stage {given.stage}",
        bound=given.bound,
        intervals=(
            f"[{names[0]}, 1]",
            *(f"[{lower}, {upper})" for upper, lower in pairwise(names)),
            f"[\u22121, {names[-1]})",
        ),
        runs=tuple(map(_changed, given.runs)),
    )


def _changed(run: ComparedRun) -> ChangedRun:
    low, high = run.below.confidence
    reduction_low, reduction_high = run.reduction_confidence or (None, None)
    return ChangedRun(
        name=shown(run.name),
        pairs=run.pairs,
        masses=tuple(mass.share for mass in run.masses),
        below=run.below.share,
        low=low,
        high=high,
        reduction=run.reduction_percent,
        reduction_low=reduction_low,
        reduction_high=reduction_high,
        gds=run.gds,
    )
