"""Whether the first layers of a ranking have settled, so that a profile need not go on."""

from __future__ import annotations

from math import ceil

import torch

from recon_cli.artifacts.scores import Settled
from recon_cli.config.schema import UntilStable
from recon_cli.errors import ReconError, counted, number
from recon_cli.experiment.ranks import Ranks
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.recording import Recording
from recon_cli.ranking.resampling import block_length, halvings

ENOUGH = 0.9
"""Which share of the first K layers two halves of the profile have to have in common."""

FIRST_CHECK = 100
_GROWTH = 1.25
"""A check takes about as long as it does however much was measured, so the later they come, the rarer they are."""


def top_overlap(measurement: Measurement, k: int, severity: float) -> float:
    """Which share of their first k layers, by the S-conflict score, two random halves of what was measured have in
    common; the mean over halvings, as :func:`recon_cli.ranking.stability.with_stability` has it.

    :param severity: S, one of those that are counted.
    :raises ReconError: if there are no more than k shared layers, S is not counted, or fewer than 16 iterations were.
    """
    _check_k(measurement, k)
    shared = measurement.shared()
    severities = measurement.settings.severities
    if severity not in severities:
        raise ReconError(
            f"conflicts below {number(severity)} are not counted",
            f"choose one of {', '.join(number(each) for each in severities)}",
        )
    below, pairs = (rows[:, shared] for rows in measurement.tally.over_time(severities.index(severity)))
    courses = zip(below.T.tolist(), pairs.T.tolist(), strict=True)
    times = torch.tensor([*halvings(len(below), block_length(courses, len(below)))])
    firsts = torch.zeros(*times.shape[:2], len(shared), dtype=torch.int64).scatter_(2, _first(times @ below, k), 1)
    return float(firsts.prod(1).sum(1).double().mean() / k)


def is_checked(iterations: int) -> bool:
    """Whether it is looked after so many measured iterations if the ranking has settled."""
    check = FIRST_CHECK
    while check < iterations:
        check = ceil(_GROWTH * check)
    return check == iterations


class Settling:
    """Finds that the first layers have settled. What it finds depends on what was measured alone, so it has no state.

    :param until: what is to settle; None for nothing.
    :param ranks: they come to the same decision, as each of them looks after every step.
    """

    def __init__(self, recording: Recording, until: UntilStable | None, ranks: Ranks) -> None:
        self._recording = recording
        self._until = until
        self._ranks = ranks
        self._iterations = 0
        self._is_possible = False
        self._overlap: float | None = None

    @property
    def settled(self) -> Settled | None:
        """What has settled by the last check."""
        if self._until is None or self._overlap is None or self._overlap < ENOUGH:
            return None
        return Settled(k=self._until.top_k, severity=self._until.severity + 0.0, overlap=self._overlap)

    def look(self) -> bool:
        """Whether the layers have settled by now, on all ranks alike.

        :raises ReconError: if there are not more layers than are to settle.
        """
        measurement, until = self._recording.measurement, self._until
        if until is None or measurement.iterations == self._iterations:
            return self.settled is not None
        self._iterations = measurement.iterations
        if self._recording.saw_all and not self._is_possible:
            # As early as it is certain.
            with self._ranks.together():
                _check_k(measurement, until.top_k)
            self._is_possible = True
        if is_checked(self._iterations):
            with self._ranks.together():
                overlap = top_overlap(measurement, until.top_k, until.severity)
            self._overlap = self._ranks.from_first(overlap)
        return self.settled is not None

    def outcome(self, step: int, steps: int) -> str | None:
        """What came of it, in a sentence; None if nothing was to settle.

        :param step: the training steps made.
        :param steps: those that were to be made.
        """
        if self._until is None:
            return None
        measurement, k = self._recording.measurement, self._until.top_k
        what = f"the first {counted(k, 'layer')} by conflicts below {number(self._until.severity)}"
        measured = counted(measurement.iterations, "measured iteration")
        try:
            overlap = top_overlap(measurement, k, self._until.severity)
        except ReconError as error:
            return f"whether {what} have settled in {measured} is not known: {error.message}"
        stay = f"two random halves of them share {number(round(k * overlap, 1))} of their first {k}"
        if self.settled is not None:
            return f"{what} have settled after {measured}, so it stops at step {step} of {steps}: {stay}"
        return f"{what} have {'' if overlap >= ENOUGH else 'not '}settled in {measured}: {stay}"


def _check_k(measurement: Measurement, k: int) -> None:
    shared = len(measurement.shared())
    if not 1 <= k < shared:
        raise ReconError(
            f"the first {counted(k, 'layer')} cannot settle: {shared} are shared", "choose fewer than that, 1 or more"
        )


def _first(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The first k layers of each row, [..., k]; ties in the model's order."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :k]
