"""Who leads a profile while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from recon_cli.profiling.measure import Measurement

_SEVERITY = -0.1
"""The least severe ones count nearly half of all pairs whatever the layer, so a stricter one is shown."""


@dataclass(frozen=True)
class Leader:
    """A layer that leads the ranking so far.

    :ivar severity: S.
    :ivar score: its S-conflict score so far.
    :ivar rate: the share of its task pairs that conflict.
    """

    name: str
    severity: float
    score: int
    rate: float


def leaders(measurement: Measurement, number: int = 5) -> list[Leader]:
    """The shared layers with the highest scores so far, at the severity that is nearest to -0.1."""
    severities = measurement.settings.severities
    shown = min(range(len(severities)), key=lambda index: abs(severities[index] - _SEVERITY))
    scores, pairs = measurement.tally.score(shown).tolist(), measurement.tally.pairs().tolist()
    first = sorted(measurement.shared(), key=lambda index: -scores[index])[:number]
    return [
        Leader(measurement.tallied[i].name, severities[shown], scores[i], scores[i] / max(pairs[i], 1)) for i in first
    ]
