"""The general route: the gradients themselves are held, whatever made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from recon_cli.gradients.graph import Node
from recon_cli.gradients.products import inner_products
from recon_cli.gradients.routes.route import ParameterGram, Route, pick


class ByGradient(Route):
    """Holds one row for each task that reaches the parameter; the gradient of a private one as it is.

    :param parameter: the parameter.
    :param users: the nodes of the graph that use it.
    :param tasks: the number of tasks whose gradients may arrive at it.
    """

    def __init__(self, parameter: torch.Tensor, users: Sequence[Node], tasks: int) -> None:
        super().__init__()
        self.targets = self.parameters = [parameter]
        self.sources = [users]
        self._parameter = parameter
        self._capacity = tasks
        self._reached: list[int] = []
        self._rows: torch.Tensor | None = None
        self._sparse_dimensions: int | None = None
        # Rows hold a gradient in the order of the parameter's memory, so that a copy runs straight through both.
        self._order = memory_order(parameter)

    def bytes_held(self) -> dict[Node, int]:
        """A row for each task, if there are several."""
        size = self._parameter.numel() * self._parameter.element_size()
        # Where other ranks alone reach the parameter, this one's graph has no use of it.
        return dict.fromkeys(self.sources[0][:1], size * self._capacity) if self._capacity > 1 else {}

    def keep(self, task: int, target: int, gradient: torch.Tensor) -> None:
        """Copy a gradient into its row, or add a further part of it."""
        assert target == 0
        if gradient.is_sparse:
            self._sparse_dimensions = gradient.sparse_dim()
            gradient = gradient.to_dense()
        ordered = gradient.permute(self._order)
        if task in self._reached:
            self._row(self._reached.index(task), ordered.shape).add_(ordered)
            return
        if self._capacity == 1:
            self._rows = ordered.reshape(1, -1)
        else:
            if self._rows is None:
                self._rows = self.memory.take((self._capacity, self._parameter.numel()), self._parameter)
            self._row(len(self._reached), ordered.shape).copy_(ordered)
        self._reached.append(task)

    def align(self, tasks: list[int]) -> torch.Tensor:
        """Let the rows be those of these tasks, whichever were kept, so that they can be added up over ranks.

        :returns: [n, size], to be changed in place; zeros for a task that was not kept.
        """
        if self._reached != tasks or self._capacity == 1:
            aligned = self._parameter.new_zeros(len(tasks), self._parameter.numel())
            for row, task in enumerate(self._reached):
                assert self._rows is not None
                aligned[tasks.index(task)] = self._rows[row]
            self._rows, self._reached = aligned, tasks
        assert self._rows is not None
        return self._rows[: len(tasks)]

    def grams(self) -> list[ParameterGram]:
        """Multiply the rows."""
        if self._rows is None:
            return []
        rows = self._rows[: len(self._reached)]
        # The inner product of complex gradients is that of their real and imaginary parts.
        rows = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
        return [ParameterGram(self._parameter, inner_products(rows, rows), self._reached)]

    def combine(self, weights: torch.Tensor) -> list[torch.Tensor | None]:
        """Add up the rows."""
        if self._rows is None:
            return [None]
        rows = self._rows[: len(self._reached)]
        # Weights may be anything, and would not all be numbers in half precision.
        precise = torch.promote_types(rows.dtype, torch.float32)
        total = pick(weights, self._reached).to(precise) @ rows.to(precise)
        return [self._shaped(total.to(rows.dtype))]

    def combine_rows(
        self, update: Callable[[torch.Tensor, Sequence[int]], torch.Tensor], shares: torch.Tensor
    ) -> torch.Tensor | None:
        """Make an update of the rows; None where no task reaches the parameter.

        :param update: from [n, size], and the n tasks that these are of, to [size].
        :param shares: [T], what each task's row is multiplied by before.
        """
        if self._rows is None:
            return None
        rows = self._rows[: len(self._reached)]
        rows = rows * pick(shares, self._reached).to(rows.dtype).unsqueeze(1)
        # A complex gradient is updated in its real and imaginary parts.
        flat = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
        return self._shaped(update(flat, self._reached).view(rows.dtype))

    def _shaped(self, total: torch.Tensor) -> torch.Tensor:
        shape = [self._parameter.shape[dimension] for dimension in self._order]
        inverse = sorted(range(len(shape)), key=self._order.__getitem__)
        total = total.view(shape).permute(inverse)
        # Optimizers for sparse gradients take no others.
        return total if self._sparse_dimensions is None else total.to_sparse(self._sparse_dimensions)

    def _row(self, index: int, shape: torch.Size) -> torch.Tensor:
        assert self._rows is not None
        return self._rows[index].view(shape)


def memory_order(tensor: torch.Tensor) -> list[int]:
    """The dimensions of a tensor from the slowest to the fastest in memory; as they are if it has gaps."""
    dimensions = list(range(tensor.dim()))
    if tensor.is_contiguous():
        return dimensions
    order = sorted(dimensions, key=tensor.stride().__getitem__, reverse=True)
    return order if tensor.permute(order).is_contiguous() else dimensions
