"""Conflict noticing (CoNAL, Eq. 5): which shared modules are updated, and how often their tasks' gradients conflict."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recon_cli.artifacts.search import ModuleConflicts


def conflicting(grams: torch.Tensor) -> torch.Tensor:
    """For each module the number of pairs of tasks whose gradients have a negative cosine, [M].

    :param grams: [M, T, T], the inner products of the tasks' gradients. A gradient of zeros has the cosine 0.
    """
    return (grams.triu(1) < 0).sum(dim=(1, 2))


def is_updated(grams: torch.Tensor) -> torch.Tensor:
    """For each module whether its joint update is used, [M]: no pair of tasks conflicts in it or in one before it.

    :param grams: [M, T, T], in the order of the chain.
    """
    return (conflicting(grams) > 0).cumsum(0) == 0


class Noticed:
    """What was noticed over the steps of a stage.

    :param modules: the names of the modules that are looked at, in the order of the chain.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._pairs = torch.zeros(len(modules), dtype=torch.int64)
        self._negative = torch.zeros(len(modules), dtype=torch.int64)
        self._zeroed = torch.zeros(len(modules), dtype=torch.int64)

    def notice(self, grams: torch.Tensor) -> torch.Tensor:
        """Count the conflicts of a step; gives for each module whether its joint update is used, [M]."""
        grams = grams.cpu()
        updated = is_updated(grams)
        tasks = grams.shape[-1]
        self._pairs += tasks * (tasks - 1) // 2
        self._negative += conflicting(grams)
        self._zeroed += ~updated
        return updated

    def records(self) -> tuple[ModuleConflicts, ...]:
        """What was counted."""
        counts = zip(
            self._modules, *(each.tolist() for each in (self._pairs, self._negative, self._zeroed)), strict=True
        )
        return tuple(ModuleConflicts(module=m, pairs=p, negative=n, zeroed=z) for m, p, n, z in counts)
