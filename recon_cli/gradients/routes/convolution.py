"""The route of convolutions: linear layers on patches."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.gradients.routes.by_output import Call
from recon_cli.gradients.routes.linear import ByMatrix

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class ConvByOutput(ByMatrix):
    """`nn.Conv1d`, `nn.Conv2d` and `nn.Conv3d` of any stride, padding, dilation and number of groups."""

    operations = frozenset({"ConvolutionBackward0"})

    def __init__(self, calls: Sequence[Call], tasks: int) -> None:
        super().__init__(calls, tasks)
        self._conv: Convolution = calls[0].module  # type: ignore[assignment]
        self.groups = self._conv.groups

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Plain convolutions."""
        return type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    @staticmethod
    def rows_of(call: Call) -> int:
        """All dimensions but the channels'."""
        channels = call.module.out_channels
        assert isinstance(channels, int)
        return call.shape.numel() // channels

    def _width_last(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.movedim(-len(self._conv.kernel_size) - 1, -1)

    def _input_rows(self, call: Call) -> torch.Tensor:
        conv = self._conv
        x = call.input.unsqueeze(0) if self._is_single(call.input) else call.input
        dimensions = len(conv.kernel_size)
        padding = _padding(conv)
        if any(padding):
            x = F.pad(x, padding, "constant" if conv.padding_mode == "zeros" else conv.padding_mode)
        for dimension, (size, stride, dilation) in enumerate(
            zip(conv.kernel_size, conv.stride, conv.dilation, strict=True), start=2
        ):
            x = x.unfold(dimension, (size - 1) * dilation + 1, stride)[..., ::dilation]
        channels = conv.in_channels // self.groups
        # [batch, channels, *positions, *kernel] to [groups, batch * positions, channels / groups * kernel].
        x = x.reshape(len(x), self.groups, channels, *x.shape[2:]).movedim(1, 0).movedim(2, 2 + dimensions)
        return x.reshape(self.groups, -1, channels * prod(conv.kernel_size))

    def _is_single(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is one image without a batch dimension."""
        return tensor.dim() == len(self._conv.kernel_size) + 1


def _padding(conv: Convolution) -> list[int]:
    """The padding of a convolution in the order that `F.pad` takes: the last dimension first, its two sides."""
    pairs = []
    for index, (size, dilation) in enumerate(zip(conv.kernel_size, conv.dilation, strict=True)):
        if conv.padding == "valid":
            pairs.append((0, 0))
        elif conv.padding == "same":
            total = dilation * (size - 1)
            pairs.append((total // 2, total - total // 2))
        else:
            side = conv.padding[index]
            assert isinstance(side, int)
            pairs.append((side, side))
    return [side for pair in reversed(pairs) for side in pair]
