"""Two ways to the Gram matrix of a parameter's task gradients: by the gradients, or straight from a layer's inputs.

The weight gradient of a linear layer is G_i = D_i^T A, with its input A [N, f] and the gradient D_i [N, d] of task i's
loss with respect to its output. So <G_i, G_j> = <D_i, (A A^T) D_j>, which needs no G_i, and any weighted sum of the G_i
is one product, (sum_i w_i D_i)^T A. A convolution is a linear layer on patches, an embedding one on one-hot rows. N
counts all rows of the batch, so this pays where N is smaller than the weight: late convolutions, wide layers at small
batches, embeddings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import GradientEdge
from torch.nn import functional as F

from recon_cli.profiling.products import inner_products

Target = torch.Tensor | GradientEdge
Gradient = torch.Tensor | None


class Route(ABC):
    """How the gradients of one parameter (and its layer's bias) are held and multiplied."""

    targets: Sequence[Target]
    """What the gradients are asked for, in every task's backward pass."""

    @abstractmethod
    def keep(self, task: int, gradients: Sequence[Gradient]) -> None:
        """Take one task's gradients of the targets."""

    @abstractmethod
    def grams(self) -> list[tuple[torch.Tensor, torch.Tensor, list[int]]]:
        """For each parameter: itself, the Gram matrix of the tasks that reach it, and those tasks."""

    @abstractmethod
    def combine(self, weights: torch.Tensor) -> None:
        """Fill `.grad` with the weighted sum of the task gradients; None where no task reaches the parameter.

        :param weights: [T].
        """


class ByGradient(Route):
    """Holds the gradients themselves, one row for each task that reaches the parameter.

    :param parameter: the parameter.
    :param buffer: memory of an earlier iteration for the rows, taken over if it fits.
    """

    def __init__(self, parameter: torch.Tensor, buffer: torch.Tensor | None, tasks: int) -> None:
        self.targets = [parameter]
        self._parameter = parameter
        self._tasks = tasks
        self._single: torch.Tensor | None = None
        # Tasks can be missing from a batch, so an earlier buffer may have too few rows.
        self.buffer = buffer if buffer is not None and len(buffer) >= tasks else None
        self._reached: list[int] = []

    def keep(self, task: int, gradients: Sequence[Gradient]) -> None:
        """Copy a gradient into its row; the only one of a private parameter is kept as it is."""
        gradient = gradients[0]
        if gradient is None:
            return
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        self._reached.append(task)
        if len(self._reached) == 1:
            self._single = gradient
            return
        if self._single is not None:
            self._row(0).copy_(self._single)
            self._single = None
        self._row(len(self._reached) - 1).copy_(gradient)

    def grams(self) -> list[tuple[torch.Tensor, torch.Tensor, list[int]]]:
        """Multiply the rows."""
        if not self._reached:
            return []
        rows = self._rows()
        # The inner product of complex gradients is that of their real and imaginary parts.
        rows = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
        return [(self._parameter, inner_products(rows, rows), self._reached)]

    def combine(self, weights: torch.Tensor) -> None:
        """Add up the rows; what is left of them is dropped."""
        if not self._reached:
            self._parameter.grad = None
        elif self._single is not None:
            self._parameter.grad = self._single * weights[self._reached[0]].to(self._single.dtype)
        else:
            rows = self._rows()
            total = _pick(weights, self._reached).to(rows.dtype) @ rows
            self._parameter.grad = _laid_out_as(self._parameter, total.view(self._parameter.shape))
        self._single = None

    def _rows(self) -> torch.Tensor:
        if self._single is not None:
            return self._single.reshape(1, -1)
        assert self.buffer is not None
        return self.buffer[: len(self._reached)]

    def _row(self, index: int) -> torch.Tensor:
        parameter = self._parameter
        if self.buffer is None:
            shape = (self._tasks, parameter.numel())
            self.buffer = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)
        return self.buffer[index].view(parameter.shape)


@dataclass(frozen=True)
class Call:
    """One call of a layer in the forward pass.

    :ivar input: the layer's input, detached.
    :ivar version: how often the input had been written to then.
    :ivar edge: where the gradient of the output is found.
    :ivar shape: shape of the output.
    :ivar dtype: type of the output.
    """

    module: nn.Module
    input: torch.Tensor
    version: int
    edge: GradientEdge
    shape: torch.Size
    dtype: torch.dtype

    @property
    def is_intact(self) -> bool:
        """Whether the input still holds what the layer was called with."""
        return self.input._version == self.version


class ByOutput(Route):
    """Holds the gradients of a layer's outputs instead of those of its weight.

    :param calls: all calls of the layer in this forward pass.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, calls: Sequence[Call], tasks: int) -> None:
        module = calls[0].module
        self._calls = calls
        self._tasks = tasks
        self.targets = [call.edge for call in calls]
        self.weight = module.weight  # type: ignore[assignment]
        self.bias = getattr(module, "bias", None)
        self._memory: torch.Tensor | None = None
        self._reached: list[int] = []

    def keep(self, task: int, gradients: Sequence[Gradient]) -> None:
        """Take one task's gradients of the outputs, as rows."""
        if all(gradient is None for gradient in gradients):
            return
        parts = []
        for call, gradient in zip(self._calls, gradients, strict=True):
            gradient = call.input.new_zeros(call.shape, dtype=call.dtype) if gradient is None else gradient
            parts.append(self._output_rows(gradient))
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._memory is None:
            self._memory = rows.new_empty(self._tasks, *rows.shape)
        self._memory[len(self._reached)].copy_(rows)
        self._reached.append(task)

    def grams(self) -> list[tuple[torch.Tensor, torch.Tensor, list[int]]]:
        """Multiply through the inputs."""
        if not self._reached:
            return []
        outputs = self._outputs()
        result: list[tuple[torch.Tensor, torch.Tensor, list[int]]] = [
            (self.weight, self._weight_gram(outputs), self._reached)
        ]
        if self.bias is not None:
            sums = outputs.sum(1)
            result.append((self.bias, inner_products(sums, sums), self._reached))
        return result

    def combine(self, weights: torch.Tensor) -> None:
        """Add up the output gradients, and form one weight gradient from the sum."""
        self.weight.grad = None
        if self.bias is not None:
            self.bias.grad = None
        if not self._reached:
            return
        outputs = self._outputs()
        weights = _pick(weights, self._reached).to(outputs.dtype)
        self.weight.grad = _laid_out_as(self.weight, self._weight_gradient(weights, outputs))
        if self.bias is not None:
            self.bias.grad = weights @ outputs.sum(1)
        self._memory = None

    def _outputs(self) -> torch.Tensor:
        """The output gradients of the tasks that reach the layer, [T, N, d]."""
        assert self._memory is not None
        return self._memory[: len(self._reached)]

    @abstractmethod
    def _output_rows(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of one call's output as [N, d]."""

    @abstractmethod
    def _weight_gram(self, outputs: torch.Tensor) -> torch.Tensor:
        """The Gram matrix of the weight's gradients, float64.

        :param outputs: [T, N, d].
        """

    @abstractmethod
    def _weight_gradient(self, weights: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """The weighted sum of the weight's gradients.

        :param weights: [T].
        :param outputs: [T, N, d].
        """


def _laid_out_as(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    # Optimizers are fastest, and some work only, where a gradient lies in memory as its parameter does.
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _pick(weights: torch.Tensor, tasks: list[int]) -> torch.Tensor:
    # Indexing with a list copies it to the device, which nearly always can be spared.
    return weights if len(tasks) == len(weights) else weights[tasks]


class LinearByOutput(ByOutput):
    """The route of `nn.Linear`, and what convolutions have in common with it."""

    def _output_rows(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.reshape(-1, gradient.shape[-1])

    def _input_rows(self, call: Call) -> torch.Tensor:
        return call.input.reshape(-1, call.input.shape[-1])

    def _weight_gram(self, outputs: torch.Tensor) -> torch.Tensor:
        inputs = self._inputs()
        through = torch.matmul(inputs @ inputs.T, outputs)
        return inner_products(outputs.flatten(1), through.flatten(1))

    def _weight_gradient(self, weights: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        total = torch.tensordot(weights, outputs, 1)
        return torch.mm(total.T, self._inputs()).view(self.weight.shape)

    def _inputs(self) -> torch.Tensor:
        if not hasattr(self, "_all_inputs"):
            self._all_inputs = torch.cat([self._input_rows(call) for call in self._calls])
        return self._all_inputs


class ConvByOutput(LinearByOutput):
    """The route of `nn.Conv2d` without groups, zero-padded: a linear layer on patches."""

    def _output_rows(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])

    def _input_rows(self, call: Call) -> torch.Tensor:
        conv = call.module
        assert isinstance(conv, nn.Conv2d)
        x = call.input
        if conv.kernel_size == (1, 1) and conv.padding == (0, 0):
            x = x[:, :, :: conv.stride[0], :: conv.stride[1]]
            return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        padding = conv.padding
        assert not isinstance(padding, str)
        patches = F.unfold(x, conv.kernel_size, conv.dilation, padding, conv.stride)
        return patches.transpose(1, 2).reshape(-1, self.weight[0].numel())


class EmbeddingByOutput(ByOutput):
    """The route of `nn.Embedding`: rows of the table that the batch touches, and no table for any task."""

    def _output_rows(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.reshape(-1, gradient.shape[-1])

    def _weight_gram(self, outputs: torch.Tensor) -> torch.Tensor:
        rows = self._touched(outputs)[1].flatten(1)
        return inner_products(rows, rows)

    def _weight_gradient(self, weights: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        ids, rows = self._touched(outputs)
        return torch.zeros_like(self.weight).index_copy_(0, ids, torch.tensordot(weights, rows, 1))

    def _touched(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows that are touched, U of them, and the gradients with respect to them, [T, U, d]."""
        if not hasattr(self, "_found"):
            embedding = self._calls[0].module
            assert isinstance(embedding, nn.Embedding)
            tokens = torch.cat([call.input.reshape(-1) for call in self._calls])
            ids, inverse = torch.unique(tokens, return_inverse=True)
            rows = outputs.new_zeros(len(outputs), len(ids), outputs.shape[-1]).index_add_(1, inverse, outputs)
            if embedding.padding_idx is not None:
                rows[:, ids == embedding.padding_idx] = 0
            self._found = ids, rows
        return self._found
