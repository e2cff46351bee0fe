"""The step of the paper's own code, as it is published: the same operations, in the same order, bit for bit.

What makes it slow is kept: the matrix that is allocated anew in every step and written column by column, the further
copies of every gradient, the graph that is retained even by the last task, and the vectors that every pair normalises.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from benchmarks.profile.bench import Bench
from recon_cli.profiling.cosines import pair_indices


class Published:
    """One backward pass per task, two copies of its gradients, and per layer and pair two normalised vectors."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._pairs = list(zip(*(index.tolist() for index in pair_indices(bench.tasks)), strict=True))

    def __call__(self) -> torch.Tensor:
        """Do a step.

        :returns: float64, the cosines [L, T (T - 1) / 2].
        """
        bench = self._bench
        size = sum(parameter.numel() for parameter in bench.shared)
        matrix = torch.zeros(size, bench.tasks).to(bench.device)
        losses = bench.losses()
        bench.optimizer.zero_grad()
        by_task = []
        for task, loss in enumerate(losses):
            torch.autograd.backward(loss, retain_graph=True)
            self._write(matrix[:, task].fill_(0.0))
            by_task.append(self._by_layer())
            for parameter in bench.shared:
                _gradient(parameter).zero_()
        # The mean, times T again: the paper's code scales every rule's update to that of the sum.
        update = matrix.sum(1) / bench.tasks * bench.tasks
        by_layer = [torch.stack(own) for own in zip(*by_task, strict=True)]
        found = [self._cosines(rows).cpu() for rows in by_layer]
        self._take(update)
        bench.optimizer.step()
        return torch.stack(found).double()

    def _write(self, column: torch.Tensor) -> None:
        start = 0
        for parameter in self._bench.shared:
            stop = start + parameter.numel()
            column[start:stop].copy_(_gradient(parameter).clone().reshape(-1))
            start = stop

    def _by_layer(self) -> list[torch.Tensor]:
        copies = iter([_gradient(parameter).clone().reshape(-1) for parameter in self._bench.shared])
        return [torch.cat([next(copies) for _ in layer.parameters]) for layer in self._bench.layers]

    def _cosines(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([(F.normalize(rows[i], dim=0) * F.normalize(rows[j], dim=0)).sum() for i, j in self._pairs])

    def _take(self, update: torch.Tensor) -> None:
        start = 0
        for parameter in self._bench.shared:
            stop = start + parameter.numel()
            parameter.grad = update[start:stop].view_as(parameter).clone()
            start = stop


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad.detach()
