"""GradVac: gradients turned towards each other as far as the tasks have been alike so far."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.grams import Active
from recon_cli.rules.rule import GramRule


class GradVacParameters(Record):
    """The parameter of GradVac."""

    beta: float = Field(default=0.01, gt=0, le=1, description="how fast the goal of each pair follows its cosine")


class GradVac(GramRule[GradVacParameters]):
    """Each g_i, for the other g_j in random order: where their cosine c is below the goal t of the pair,
    g_i += |g_i| (t sqrt(1 - c^2) - c sqrt(1 - t^2)) / (|g_j| sqrt(1 - t^2)) g_j; then their sum.

    The goals begin at 0, where GradVac is PCGrad, and follow the cosines as a moving average.
    """

    NAME = "gradvac"
    TITLE = "GradVac"
    PAPER = "Wang et al., Gradient Vaccine, ICLR 2021"
    PARAMETERS = GradVacParameters
    PUBLISHED = "the sum of the gradients"
    EXCEPTION = "with three tasks or more, the order of the tasks decides the random order of the turns"
    SUMS = True
    LEARNED = ("goals",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.goals = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64)

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        tasks, cosines, beta = len(active.norms), active.cosines, self.parameters.beta
        # Each row: a task's gradient as a combination of unit gradients.
        rows = torch.diag(active.norms)
        for task in range(tasks):
            goals = self.goals[active.places[task]]
            along = cosines[task] * active.norms[task]
            square = float(active.norms[task]) ** 2
            for other in torch.randperm(tasks, generator=self.generator).tolist():
                if other == task:
                    continue
                length, inner = sqrt(max(square, 0)), float(along[other])
                cosine = max(-1.0, min(1.0, inner / length)) if length > 0 else 0.0
                goal = float(goals[active.places[other]])
                if cosine < goal:
                    # Above that goal, no finite part of another gradient would do.
                    aim = min(goal, _NEARLY_ONE)
                    turn = length * (aim * sqrt(1 - cosine**2) / sqrt(1 - aim**2) - cosine)
                    rows[task, other] += turn
                    along = along + turn * cosines[other]
                    square += turn * (2 * inner + turn)
                goals[active.places[other]] = (1 - beta) * goal + beta * cosine
        return rows.sum(0) / active.norms


_NEARLY_ONE = 1 - 1e-12
