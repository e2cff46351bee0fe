"""The route of a shared representation: the gradients with respect to it are held, and no parameter's."""

from __future__ import annotations

import torch
from torch.autograd.graph import GradientEdge

from recon_cli.gradients.graph import Node, edge_bytes
from recon_cli.gradients.routes.route import ParameterGram, Route, pick


class ByFeature(Route):
    """Holds dL_i/dZ, one row for each task that reaches the representation Z.

    :param number: which of the representations it is.
    :param edge: where the gradient of Z is found.
    :param tasks: the number of tasks whose gradients may arrive there.
    :ivar reached: the tasks whose gradients did.
    """

    def __init__(self, number: int, edge: GradientEdge, tasks: int) -> None:
        super().__init__()
        self.number = number
        self.edge = edge
        self.targets = [edge]
        self.sources = [[edge.node]]
        self.parameters = []
        self.reached: list[int] = []
        self._capacity = tasks
        self._held: torch.Tensor | None = None
        self._shape = torch.Size()

    def bytes_held(self) -> dict[Node, int]:
        """A row for each task."""
        return {self.edge.node: edge_bytes(self.edge.node, self.edge.output_nr) * self._capacity}

    def keep(self, task: int, target: int, gradient: torch.Tensor) -> None:
        """Copy a gradient into its row."""
        assert target == 0
        if self._held is None:
            self._shape = gradient.shape
            self._held = self.memory.take((self._capacity, gradient.numel()), gradient)
        self._held[len(self.reached)].view(gradient.shape).copy_(gradient)
        self.reached.append(task)

    def grams(self) -> list[ParameterGram]:
        """None: there is no parameter."""
        return []

    def combine(self, weights: torch.Tensor) -> list[torch.Tensor | None]:  # noqa: ARG002 - nothing is added up
        """Nothing: there is no parameter."""
        return []

    @property
    def rows(self) -> torch.Tensor:
        """The gradients, flattened over the batch and all else, [n, K]; n = 0 if no task reaches Z."""
        return torch.empty(0, 0) if self._held is None else self._held[: len(self.reached)]

    @property
    def gradients(self) -> torch.Tensor:
        """The gradients in the shape of Z, [n, *Z]."""
        return self.rows.view(-1, *self._shape)

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """sum_i w_i dL_i/dZ, in the shape and type of Z.

        :param weights: [T].
        """
        rows = self.rows
        # Weights would lose most of their digits in half precision.
        precise = torch.promote_types(rows.dtype, torch.float32)
        total = pick(weights, self.reached).to(precise) @ rows.to(precise)
        return total.to(rows.dtype).view(self._shape)
