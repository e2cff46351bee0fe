"""The route of `nn.Linear`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import nn

from recon_cli.gradients.products import in_single_precision, inner_products
from recon_cli.gradients.routes.by_output import ByOutput, Call


class ByMatrix(ByOutput):
    """What layers that multiply rows with a matrix have in common: `groups` matrices side by side, usually one."""

    groups: int

    def __init__(self, calls: Sequence[Call], tasks: int) -> None:
        super().__init__(calls, tasks)
        self.width = len(self.weight)

    @classmethod
    def costs(cls, calls: Sequence[Call], tasks: int) -> tuple[int, int]:
        """Compare the operations of both ways to the Gram matrix and to a weighted sum."""
        weight, groups = calls[0].module.weight, getattr(calls[0].module, "groups", 1)
        assert isinstance(weight, torch.Tensor)
        rows = sum(cls.rows_of(call) for call in calls)
        width, fan_in = weight.shape[0] // groups, weight.numel() // weight.shape[0]
        by_gradient = tasks * rows * fan_in * width + tasks**2 * fan_in * width
        by_output = rows**2 * fan_in + tasks * rows**2 * width + tasks**2 * rows * width + rows * fan_in * width
        return by_output, by_gradient

    @abstractmethod
    def _input_rows(self, call: Call) -> torch.Tensor:
        """The input of one call, [groups, N, f]."""

    @cached_property
    def _inputs(self) -> torch.Tensor:
        """A, [groups, N, f]."""
        return torch.cat([self._input_rows(call) for call in self._calls], dim=1)

    def _weight_gram(self) -> torch.Tensor:
        # <G_i, G_j> = <D_i, (A A^T) D_j>, summed over the groups.
        inputs, outputs = in_single_precision(self._inputs), in_single_precision(self.outputs)
        products = inputs @ inputs.transpose(1, 2)
        grams = []
        for product, part in zip(products, self._by_group(outputs), strict=True):
            grams.append(inner_products(part.flatten(1), torch.matmul(product, part).flatten(1)))
        return torch.stack(grams).sum(0)

    def _weight_gradient(self, weights: torch.Tensor) -> torch.Tensor:
        # (sum_i w_i D_i)^T A
        total = self._by_group(torch.tensordot(weights, in_single_precision(self.outputs), 1))
        return torch.bmm(total.transpose(1, 2), in_single_precision(self._inputs)).view(self.weight.shape)

    def _by_group(self, outputs: torch.Tensor) -> torch.Tensor:
        """[..., N, d] as [groups, ..., N, d / groups]."""
        return outputs.reshape(*outputs.shape[:-1], self.groups, self.width // self.groups).movedim(-2, 0)


class LinearByOutput(ByMatrix):
    """`nn.Linear`: every position of the input is a row."""

    operations = frozenset({"AddmmBackward0", "MmBackward0"})
    groups = 1

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Plain linear layers."""
        return type(module) is nn.Linear

    @staticmethod
    def rows_of(call: Call) -> int:
        """All dimensions but the last."""
        return call.shape.numel() // call.shape[-1]

    def _width_last(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    def _input_rows(self, call: Call) -> torch.Tensor:
        return call.input.reshape(1, -1, call.input.shape[-1])
