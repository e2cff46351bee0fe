"""The mean of each task's loss over some batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from recon_cli.experiment.ranks import ALONE, Ranks


class MeanLosses:
    """Sums and counts of losses.

    :param tasks: number of tasks T.
    """

    def __init__(self, tasks: int) -> None:
        self._sums = [0.0] * tasks
        self._counts = [0] * tasks

    def add(self, tasks: Iterable[int], values: Sequence[float]) -> None:
        """Count the losses of a batch.

        :param tasks: the indices of the tasks that have one.
        :param values: theirs, in the same order.
        """
        for task, value in zip(tasks, values, strict=True):
            self._sums[task] += value
            self._counts[task] += 1

    def take(self, ranks: Ranks = ALONE) -> list[float | None]:
        """The mean loss of each task, over all ranks, None where it had none; the sums begin anew."""
        totals = torch.tensor([self._sums, self._counts], dtype=torch.float64)
        shared = torch.stack(ranks.share(totals)).sum(0).tolist()
        self._sums, self._counts = [0.0] * len(self._sums), [0] * len(self._counts)
        return [total / count if count else None for total, count in zip(*shared, strict=True)]

    def state(self) -> dict[str, Any]:
        """The sums and counts, as plain data."""
        return {"sums": list(self._sums), "counts": list(self._counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what another one counted."""
        self._sums, self._counts = list(state["sums"]), list(state["counts"])
