"""What may look at some steps of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from recon_cli.gradients.engine import LayerGrams
from recon_cli.updating.ways.way import Measured


class Recorder(Protocol):
    """Takes what is measured on some steps of a training."""

    @property
    def measured(self) -> Measured:
        """What is measured on them."""

    def includes(self, step: int) -> bool:
        """Whether a step, counted from 0, is measured."""

    @property
    def wants_halves(self) -> bool:
        """Whether the halves of the batch of the next measured step are to be measured as well."""

    def record(self, found: LayerGrams, step: int, present: Sequence[int], on_halves: LayerGrams | None = None) -> None:
        """Take what was measured on a step.

        :param present: the indices of the tasks that have a loss on any rank.
        :param on_halves: what was measured on the halves of its batch, as `HalfBatches` gives it, if that was done.
        """

    def state(self) -> dict[str, Any]:
        """What was recorded so far, as plain data and tensors."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another recorder was."""
