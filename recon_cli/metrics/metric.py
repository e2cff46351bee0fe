"""What a metric is: it sees outputs and labels batch by batch, and says how good they are together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch


class Metric(ABC):
    """How good a network is at a task, over all batches that it was shown.

    Neither the division into batches and ranks nor their order changes the value. Nothing is differentiated, and
    `update` waits for no GPU: what it would have to look at there, `compute` looks at.
    """

    HIGHER_IS_BETTER: bool

    @abstractmethod
    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch.

        :param output: of the network for this task, of any floating type, on any device.
        :param label: what it should have been.
        :raises ReconError: if their shapes do not fit each other or the metric. Values that it cannot count are refused
            here on a CPU, and by `compute` on a GPU.
        """

    @abstractmethod
    def compute(self) -> float:
        """The value for all that was counted; NaN where that is nothing.

        :raises ReconError: if it has none, or a value cannot be counted.
        """

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """What was counted, on the CPU."""

    @abstractmethod
    def merge(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Have counted what several ranks have counted together.

        :param states: one of each rank, this one included, in any order.
        """
