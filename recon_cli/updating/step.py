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

    :ivar losses: a scalar for each task that has one on this rank, by its index.
    :ivar counts: on how many ranks each task has a loss, [T].
    :ivar ranks: the processes that train the network together.
    :ivar scale: what the losses are multiplied by for the backward passes, and so all gradients.
    """

    losses: Mapping[int, torch.Tensor]
    counts: list[int]
    ranks: Ranks
    scale: float = 1.0

    @classmethod
    def of(cls, losses: Mapping[int, torch.Tensor], tasks: int, ranks: Ranks, scale: float = 1.0) -> Step:
        """The step, as the ranks see it together."""
        return cls(losses, ranks.counts([task in losses for task in range(tasks)]), ranks, scale)

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

    @cached_property
    def scaled(self) -> Mapping[int, torch.Tensor]:
        """The losses, multiplied by `scale`."""
        return self.losses if self.scale == 1 else {task: loss * self.scale for task, loss in self.losses.items()}

    @property
    def in_order(self) -> list[torch.Tensor | None]:
        """The scaled losses of these, None where other ranks alone have one."""
        return [self.scaled.get(task) for task in self.present]

    def observation(self, gram: torch.Tensor | None = None) -> Observation:
        """What a rule may see of it: nothing of the scale.

        :param gram: of the gradients of the scaled losses, float64 on the CPU, [P, P].
        """
        seen = None if gram is None else self.spread(gram / self.scale / self.scale)
        return Observation(self.values, seen, tuple(self.present))

    @cached_property
    def values(self) -> torch.Tensor:
        """The losses' means over the ranks, float64 on the CPU, [T]; zero where there is none."""
        values = torch.zeros(self.tasks, dtype=torch.float64, device=self.device if self.ranks.size > 1 else None)
        values[list(self.losses)] = torch.stack([loss.detach() for loss in self.losses.values()]).to(values)
        self.ranks.sum([values])
        return values.cpu() / torch.tensor(self.counts).clamp(min=1)

    def spread(self, gram: torch.Tensor) -> torch.Tensor:
        """A Gram matrix of the tasks that are present, [P, P], as one of all, [T, T], with zeros for the others."""
        if len(self.present) == self.tasks:
            return gram
        at = torch.tensor(self.present)
        whole = gram.new_zeros(self.tasks, self.tasks)
        whole[at.unsqueeze(1), at] = gram
        return whole

    def factors(self, weights: torch.Tensor, *, averaged: bool = False) -> list[float]:
        """What this rank's scaled losses are multiplied by, so that the sum of all gradients over the ranks is the
        update.

        :param weights: [T].
        :param averaged: whether it is to be their mean instead.
        """
        size = self.ranks.size if averaged else 1
        of_tasks = weights.tolist()
        return [of_tasks[task] * size / self.counts[task] for task in self.losses]

    def weighted(self, weights: torch.Tensor) -> torch.Tensor:
        """The sum of the scaled losses times their factors."""
        pairs = zip(self.scaled.values(), self.factors(weights), strict=True)
        return torch.stack([loss * factor for loss, factor in pairs]).sum()
