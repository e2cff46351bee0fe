"""What is counted over time: windows of equal length, however long it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from recon_cli.artifacts.series import MOST_WINDOWS

Counts = dict[str, torch.Tensor]
"""What was counted and summed, by name."""


@dataclass(frozen=True)
class Windows:
    """What was counted in each window; every one but the last is full.

    :ivar length: how many iterations a full window holds.
    :ivar filled: how many the last one holds.
    """

    counts: tuple[Counts, ...] = ()
    length: int = 1
    filled: int = 0

    def with_one(self, found: Counts) -> Windows:
        """These windows and one iteration more."""
        if self.counts and self.filled < self.length:
            return Windows((*self.counts[:-1], added(self.counts[-1], found)), self.length, self.filled + 1)
        if len(self.counts) == MOST_WINDOWS:
            halves = zip(self.counts[::2], self.counts[1::2], strict=True)
            return Windows(tuple(added(*two) for two in halves), 2 * self.length, 2 * self.length).with_one(found)
        return Windows((*self.counts, found), self.length, 1)

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many iterations each window holds."""
        return (*(self.length for _ in self.counts[1:]), self.filled) if self.counts else ()

    def state(self) -> dict[str, torch.Tensor]:
        """All of it, by name and then by window."""
        names = self.counts[0] if self.counts else {}
        return {
            "lengths": torch.tensor([self.length, self.filled]),
            **{name: torch.stack([counts[name] for counts in self.counts]) for name in names},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> Windows:
        """What gave this state."""
        rows = {name: tensor.clone() for name, tensor in state.items() if name != "lengths"}
        number = len(next(iter(rows.values()), ()))
        length, filled = state["lengths"].tolist()
        return cls(tuple({name: rows[name][at] for name in rows} for at in range(number)), length, filled)


def added(one: Counts, other: Mapping[str, torch.Tensor]) -> Counts:
    """The sums of both; what the other has not counted stays as it is."""
    return {name: total + other[name] if name in other else total for name, total in one.items()}
