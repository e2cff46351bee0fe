"""The route of `nn.Embedding`: the rows of the table that the batch touches, and no table for any task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import nn

from recon_cli.gradients.products import in_single_precision, inner_products
from recon_cli.gradients.routes.by_output import ByOutput, Call


class EmbeddingByOutput(ByOutput):
    """A table, looked up; its gradients are sums of output rows with the same token."""

    operations = frozenset({"EmbeddingBackward0"})

    def __init__(self, calls: Sequence[Call], tasks: int) -> None:
        super().__init__(calls, tasks)
        self.width = self.weight.shape[1]

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Plain embeddings with dense gradients."""
        return type(module) is nn.Embedding and not (
            module.max_norm is not None or module.scale_grad_by_freq or module.sparse
        )

    @staticmethod
    def rows_of(call: Call) -> int:
        """Every token is a row."""
        return call.input.numel()

    @classmethod
    def costs(cls, calls: Sequence[Call], tasks: int) -> tuple[int, int]:
        """Compare the numbers that are written: the tokens' rows, or the whole table."""
        weight = calls[0].module.weight
        assert isinstance(weight, torch.Tensor)
        return tasks * sum(call.shape.numel() for call in calls), tasks * weight.numel()

    def _width_last(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    def _weight_gram(self) -> torch.Tensor:
        rows = self._touched[1].flatten(1)
        return inner_products(rows, rows)

    def _weight_gradient(self, weights: torch.Tensor) -> torch.Tensor:
        ids, rows = self._touched
        total = torch.tensordot(weights, in_single_precision(rows), 1).to(self.weight.dtype)
        return torch.zeros_like(self.weight).index_copy_(0, ids, total)

    @cached_property
    def _touched(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows that are touched, U of them, and the gradients with respect to them, [n, U, d]."""
        embedding, outputs = self._calls[0].module, self.outputs
        assert isinstance(embedding, nn.Embedding)
        tokens = torch.cat([call.input.reshape(-1) for call in self._calls]).long()
        ids, inverse = torch.unique(tokens, return_inverse=True)
        rows = outputs.new_zeros(len(outputs), len(ids), outputs.shape[-1]).index_add_(1, inverse, outputs)
        if embedding.padding_idx is not None:
            rows[:, ids == embedding.padding_idx] = 0
        return ids, rows
