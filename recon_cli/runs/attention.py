"""What a run looks to between two steps: whether it is asked to stop, and whether it is time to save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recon_cli.experiment.ranks import Ranks
from recon_cli.runs.interruption import Interrupted, Interruption, noticing_signals
from recon_cli.runs.keeping import StateKeeper


class Attention:
    """Attention to signals and to the clock; all ranks come to the same decision.

    :param keeper: saves the run's state, if it is kept.
    """

    def __init__(self, interruption: Interruption, keeper: StateKeeper | None, ranks: Ranks) -> None:
        self._interruption = interruption
        self._keeper = keeper
        self._ranks = ranks

    def during(self, step: Callable[[], None]) -> None:
        """Make a step.

        :raises Interrupted: if it fails after a signal, which may have ended processes that the step needed, such as
            those that load the data.
        """
        try:
            step()
        except Exception:
            if self._interruption.signal is None:
                raise
            raise Interrupted(self._interruption.signal, between_steps=False) from None

    def between(self, *, is_over: bool) -> None:
        """Save the state if it is time to.

        :param is_over: whether no step is left, so that there is nothing to stop.
        :raises Interrupted: if any rank got a signal.
        """
        keeper = self._keeper
        due = keeper is not None and keeper.is_due
        highest = self._ranks.highest(2 * (self._interruption.signal or 0) + due)
        signal, save = highest >> 1, bool(highest & 1)
        if signal and not is_over:
            raise Interrupted(signal, between_steps=True)
        if save and keeper is not None:
            keeper.save()


@contextmanager
def paying_attention(keeper: StateKeeper | None, ranks: Ranks) -> Iterator[Attention]:
    """Note signals while the block runs."""
    with noticing_signals() as interruption:
        yield Attention(interruption, keeper, ranks)
