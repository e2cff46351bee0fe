"""The losses of one training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from recon_cli.experiment.ranks import Ranks
from recon_cli.rules.rule import Observation


@dataclass(frozen=True)
class Step:
    """The losses of one training step.

    Where several ranks train together, a task's loss is its mean over those that have it.

    :ivar losses: a scalar for each task that has one on this rank, by its index, multiplied by `scale`.
    :ivar counts: on how many ranks each task has a loss, [T].
    :ivar ranks: the processes that train the network together.
    :ivar scale: of the losses, and so of all gradients.
    """

    losses: Mapping[int, torch.Tensor]
    counts: list[int]
    ranks: Ranks
    scale: float = 1.0

    @classmethod
    def of(cls, losses: Mapping[int, torch.Tensor], tasks: int, ranks: Ranks, scale: float = 1.0) -> Step:
        """The step, as the ranks see it together.

        :param losses: as they are.
        """
        scaled = losses if scale == 1 else {task: loss * scale for task, loss in losses.items()}
        return cls(scaled, ranks.counts([task in losses for task in range(tasks)]), ranks, scale)

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.counts)

    @property
    def device(self) -> torch.device:
        """Where the losses lie."""
        return next(iter(self.losses.values())).device

    @cached_property
    def present(self) -> list[int]:
        """The tasks that any rank has a loss of, P of them."""
        return [task for task, count in enumerate(self.counts) if count]

    @property
    def in_order(self) -> list[torch.Tensor | None]:
        """The losses of these, None where other ranks alone have one."""
        return [self.losses.get(task) for task in self.present]

    def observation(self, gram: torch.Tensor | None = None) -> Observation:
        """What a rule may see of it.

        :param gram: float64 on the CPU, [P, P].
        """
        return Observation(self.values, None if gram is None else self.spread(gram), tuple(self.present))

    @cached_property
    def values(self) -> torch.Tensor:
        """The losses' means over the ranks, not scaled, float64 on the CPU, [T]; zero where there is none."""
        values = torch.zeros(self.tasks, dtype=torch.float64, device=self.device if self.ranks.size > 1 else None)
        values[list(self.losses)] = torch.stack([loss.detach() for loss in self.losses.values()]).to(values)
        self.ranks.sum([values])
        return values.cpu() / self.scale / torch.tensor(self.counts).clamp(min=1)

    def spread(self, gram: torch.Tensor) -> torch.Tensor:
        """A Gram matrix of the tasks that are present, [P, P], as one of all, [T, T], with zeros for the others."""
        if len(self.present) == self.tasks:
            return gram
        at = torch.tensor(self.present)
        whole = gram.new_zeros(self.tasks, self.tasks)
        whole[at.unsqueeze(1), at] = gram
        return whole

    def weighted(self, weights: torch.Tensor, *, averaged: bool = False) -> torch.Tensor:
        """The sum of the weighted losses: the sum of its gradients over the ranks is the update.

        :param weights: [T].
        :param averaged: whether it is to be their mean instead.
        """
        size = self.ranks.size if averaged else 1
        factors = weights.tolist()
        return torch.stack([loss * (factors[t] * size / self.counts[t]) for t, loss in self.losses.items()]).sum()
