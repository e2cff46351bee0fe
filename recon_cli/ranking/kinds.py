"""What a layer's score can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erfc, sqrt

from recon_cli.ranking.null import random_rate

CONFLICTS = "conflicts"
COUPLED = "coupled"
Z = "z"


@dataclass(frozen=True)
class Evidence:
    """What was measured of a layer, in all iterations or some of them, and what its split costs.

    :ivar size: its number of parameters, d.
    :ivar severity: S, or for `z` the bound of cos sqrt(d).
    :ivar pairs: task pairs measured.
    :ivar below: those with a cosine strictly below the severity.
    :ivar gds: the mean cosine of the pairs; 0 without any.
    :ivar deviation: the standard deviation of the cosines.
    :ivar opposition: the magnitude-weighted conflict, a mean over the pairs.
    :ivar half_pairs: pairs of task gradients on halves of batches that have the samples in common, and as many that
        have none.
    :ivar same: those with the samples in common and a cosine strictly below the severity.
    :ivar cross: those without.
    :ivar extra_parameters: what a copy for each further task adds.
    :ivar extra_operations: the same in operations of a forward pass, if the layer is the only one that is split; None
        if that is not known.
    """

    size: int
    severity: float
    pairs: float
    below: float
    gds: float
    deviation: float
    opposition: float
    extra_parameters: int
    extra_operations: int | None
    half_pairs: float = 0
    same: float = 0
    cross: float = 0

    @property
    def rate(self) -> float:
        """The share of the pairs below the severity."""
        return self.below / self.pairs if self.pairs else 0.0


@dataclass(frozen=True)
class ScoreKind:
    """A way to score layers; the higher, the more a layer is to be split.

    :ivar words: what it is.
    :ivar use: when to take it.
    :ivar needs: what of a scores document it needs that those of earlier versions, or of some networks, lack.
    :ivar between_tasks: whether it is known between each two tasks as well, as it follows from the counts alone.
    """

    name: str
    words: str
    use: str
    value: Callable[[Evidence], float]
    needs: tuple[str, ...] = ()
    between_tasks: bool = False


def _fitted(evidence: Evidence) -> float:
    if not evidence.pairs:
        return 0.0
    if not evidence.deviation:
        return float(evidence.gds < evidence.severity)
    return erfc((evidence.gds - evidence.severity) / (sqrt(2) * evidence.deviation)) / 2


def _excess(evidence: Evidence) -> float:
    return evidence.rate - random_rate(evidence.severity, evidence.size) if evidence.pairs else 0.0


def _coupled(evidence: Evidence) -> float:
    return (evidence.same - evidence.cross) / evidence.half_pairs if evidence.half_pairs else 0.0


def _removable(evidence: Evidence) -> float:
    """The conflicts that a split may remove: those that random directions would not have as well."""
    return max(0.0, _excess(evidence)) * evidence.pairs


def _per_operation(evidence: Evidence) -> float:
    # A layer that adds no operations that are counted, such as a BatchNorm, still touches each parameter once.
    operations = max(evidence.extra_operations or 0, evidence.extra_parameters)
    return _removable(evidence) / (operations / 1e6) if operations else 0.0


def _per_parameter(evidence: Evidence) -> float:
    return _removable(evidence) / (evidence.extra_parameters / 1e6) if evidence.extra_parameters else 0.0


KINDS: Mapping[str, ScoreKind] = {
    kind.name: kind
    for kind in (
        ScoreKind(
            CONFLICTS,
            "the S-conflict score: how many pairs of task gradients had a cosine below S (Recon, Definition 3)",
            "to do as the paper does. In small layers random gradients have larger cosines, so it partly lists layers "
            "by their size",
            lambda evidence: evidence.below,
            between_tasks=True,
        ),
        ScoreKind(
            "probability",
            "the share of a layer's own pairs with a cosine below S",
            "where not all tasks reach all layers, or have labels in all batches; else it orders as `conflicts` does",
            lambda evidence: evidence.rate,
            between_tasks=True,
        ),
        ScoreKind(
            "fitted",
            "the same share of a normal distribution with the mean and the deviation of the layer's cosines",
            "with few samples: it is as accurate as the count of up to three times as many, and has no ties",
            _fitted,
            ("deviation",),
        ),
        ScoreKind(
            "excess",
            "the share below S, less that of random directions in as many dimensions as the layer has parameters",
            "to see which layers conflict more than their size alone makes them",
            _excess,
            between_tasks=True,
        ),
        ScoreKind(
            COUPLED,
            "the share below S of two tasks' gradients on the same half of a batch, less that of their gradients on "
            "different halves, which have no samples in common",
            "to see how many conflicts come from seeing the same samples. One that the tasks have on any data is in "
            "both shares, so a layer may conflict always and score 0: look at it beside `excess`, not in its place",
            _coupled,
            ("halves",),
        ),
        ScoreKind(
            Z,
            "the share of pairs with cos sqrt(d) below -2 (or -S -1, -3), d the layer's number of parameters",
            "to compare layers of all sizes by one measure: random directions have 2.3% below -2 in any layer",
            lambda evidence: evidence.rate,
            ("z_conflicts",),
        ),
        ScoreKind(
            "magnitude",
            "the mean of max(0, -2<g_i, g_j> / (|g_i|^2 + |g_j|^2)): conflicts of gradients of like length weigh most",
            "where tasks differ much in the size of their gradients, and one that is negligible should not count",
            lambda evidence: evidence.opposition,
            ("opposition",),
        ),
        ScoreKind(
            "per-parameter",
            "the conflicts in excess of random ones, per million parameters that a split of the layer adds",
            "where memory is what a split costs",
            _per_parameter,
        ),
        ScoreKind(
            "per-operation",
            "the conflicts in excess of random ones, per million operations that a split of the layer alone adds",
            "where time is what a split costs: layers near the heads come first",
            _per_operation,
            ("flow",),
        ),
    )
}
