"""Which tasks may reach which parameters, on all ranks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.graph import Graph


@dataclass(frozen=True)
class Reach:
    """What the ranks have to agree on before their gradients can be added up.

    :ivar tasks: for each parameter, the tasks whose gradients may arrive at it on any rank, ascending.
    :ivar shares: float64, [T]: one part in as many as there are ranks with the task's loss, so that a sum over the
        ranks becomes their mean.
    """

    tasks: list[list[int]]
    shares: torch.Tensor

    @classmethod
    def of(
        cls,
        graph: Graph,
        losses: Sequence[torch.Tensor | None],
        parameters: Sequence[torch.Tensor],
        ranks: Ranks,
        device: torch.device,
    ) -> Reach:
        """Ask the graph, and the other ranks for theirs."""
        own = [graph.tasks_of(parameter) for parameter in parameters]
        if ranks.size == 1:
            return cls(own, torch.ones(len(losses), dtype=torch.float64, device=device))
        counts = torch.zeros(len(parameters) + 1, len(losses), dtype=torch.int64)
        for index, tasks in enumerate(own):
            counts[index, tasks] = 1
        counts[-1] = torch.tensor([loss is not None for loss in losses])
        counts = counts.to(device)
        ranks.sum([counts])
        shares = 1 / counts[-1].clamp(min=1).double()
        return cls([row.nonzero().flatten().tolist() for row in counts[:-1].cpu()], shares)
