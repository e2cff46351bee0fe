"""Metrics of what adds up over items, and so over batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from recon_cli.metrics.metric import Metric


class SummedMetric(Metric):
    """A metric of sums.

    :param sums: the sums over nothing, in the type that they are to be summed in.
    """

    def __init__(self, **sums: torch.Tensor) -> None:
        self._sums = sums

    def state(self) -> dict[str, torch.Tensor]:
        """The sums."""
        return {name: value.cpu() for name, value in self._sums.items()}

    def merge(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Add up the sums of all ranks."""
        self._sums = {name: torch.stack([state[name].cpu() for state in states]).sum(0) for name in self._sums}

    def _add(self, **parts: torch.Tensor) -> None:
        # The sums follow the outputs to their device, where nothing has to wait.
        for name, part in parts.items():
            self._sums[name] = self._sums[name].to(part.device) + part


class Mean(SummedMetric):
    """The mean of one value for each item that is counted."""

    def __init__(self, **sums: torch.Tensor) -> None:
        super().__init__(total=torch.zeros((), dtype=torch.float64), number=count(), **sums)

    def compute(self) -> float:
        """The mean over all batches."""
        sums = self.state()
        number = int(sums["number"])
        return float(sums["total"]) / number if number else float("nan")

    def _add_values(self, values: torch.Tensor, valid: torch.Tensor) -> None:
        """Count some values.

        :param valid: of the values' shape, which of them count.
        """
        self._add(total=torch.where(valid, values, 0).sum(dtype=torch.float64), number=valid.sum())


def count() -> torch.Tensor:
    """A count of nothing yet."""
    return torch.zeros((), dtype=torch.int64)


def histogram(places: torch.Tensor, bins: int) -> torch.Tensor:
    """How often each of the whole numbers from 0 to bins - 1 is there.

    :param places: int64, of any shape, all in this range.
    :returns: [bins], int64.
    """
    # `bincount` would stop a GPU to look for the largest number.
    ones = torch.ones((), dtype=torch.int64, device=places.device).expand(places.numel())
    return torch.zeros(bins, dtype=torch.int64, device=places.device).index_add_(0, places.flatten(), ones)
