"""MobileNetV2 with a reduced ASPP (Sandler et al., 2018) and a decoder for each task (Bruggemann et al., 2020).

Layers of the backbone have torchvision's names (`features.2.conv.1.0`), so weights trained on ImageNet can be loaded.
The networks can be compiled to TorchScript, traced and exported.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.zoo.pixels import PASCAL_CONTEXT, end_of

STAGES = (
    # expansion, channels, blocks, stride, dilation of the first block and of the others
    (1, 16, 1, 1, 1, 1),
    (6, 24, 2, 2, 1, 1),
    (6, 32, 3, 2, 1, 1),
    (6, 64, 4, 2, 1, 1),
    (6, 96, 3, 1, 1, 1),
    (6, 160, 3, 1, 1, 2),
    (6, 320, 1, 1, 2, 2),
)
"""The stages of the backbone. The sixth has stride 1, not 2, for an output stride of 16, and then dilation."""


class InvertedResidual(nn.Module):
    """An expanding 1x1 convolution, a 3x3 convolution in each channel, a linear 1x1 convolution, and a shortcut.

    :param expansion: how many times as many channels the inner convolution has; with 1 there is no expanding one.
    :param stride: stride of the inner convolution.
    :param dilation: dilation of the inner convolution.
    """

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv = nn.Sequential(
            *([_conv_layer(in_channels, hidden)] if expansion > 1 else []),
            _conv_layer(hidden, hidden, kernel=3, stride=stride, dilation=dilation, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] to [N, channels, H / stride, W / stride]."""
        inner: torch.Tensor = self.conv(x)
        return x + inner if self.has_shortcut else inner


class RASPP(nn.Module):
    """Reduced atrous spatial pyramid pooling: a 1x1 convolution next to one of the image's mean, and a projection.

    In training it normalises the images' means over the batch, so a batch needs two images at least.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.local = _conv_layer(in_channels, channels)
        self.pooled = _conv_layer(in_channels, channels)
        self.dropout = nn.Dropout(0.1)
        self.projection = _conv_layer(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] to [N, channels, H, W]."""
        local = self.local(x)
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand_as(local)
        projected: torch.Tensor = self.projection(self.dropout(torch.cat((local, pooled), dim=1)))
        return projected


class Decoder(nn.Module):
    """The head of a task, as in DeepLabv3+: separable convolutions on features of two resolutions.

    :param low_channels: channels of the features of the higher resolution.
    :param reduced: channels to which these are reduced.
    :param features: channels of the features of the lower resolution, and of those between the convolutions.
    :param channels: channels of the output.
    """

    def __init__(self, low_channels: int, reduced: int, features: int, channels: int, task: str) -> None:
        super().__init__()
        self.low_level_reduce = _conv_layer(low_channels, reduced)
        self.conv_1 = _separable(reduced + features, features)
        self.conv_2 = _separable(features, features)
        self.conv_logits = nn.Conv2d(features, channels, 1)
        self.end = end_of(task)

    def forward(self, x: torch.Tensor, low: torch.Tensor, size: list[int]) -> torch.Tensor:
        """Map features of both resolutions to an output [N, channels, *size]."""
        x = F.interpolate(x, size=low.shape[2:], mode="bilinear", align_corners=False)
        x = self.conv_logits(self.conv_2(self.conv_1(torch.cat((self.low_level_reduce(low), x), dim=1))))
        output: torch.Tensor = self.end(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
        return output


class MobileNetV2(nn.Module):
    """The backbone and the R-ASPP module, which all tasks share, and a decoder for each task.

    :param channels: task -> channels of its output.
    :param width: the width multiplier of the paper; scales R-ASPP and decoders too.
    """

    def __init__(self, channels: Mapping[str, int], width: float) -> None:
        super().__init__()
        before = _scaled(32, width)
        layers: list[nn.Module] = [_conv_layer(3, before, kernel=3, stride=2)]
        for expansion, unscaled, blocks, stride, first, others in STAGES:
            after = _scaled(unscaled, width)
            layers.append(InvertedResidual(before, after, expansion, stride, first))
            layers += [InvertedResidual(after, after, expansion, 1, others) for _ in range(blocks - 1)]
            before = after
        self.features = nn.Sequential(*layers)
        features = _scaled(128, width)
        self.raspp = RASPP(before, features)
        low, reduced = _scaled(24, width), _scaled(48, width)
        self.heads = nn.ModuleDict(
            {task: Decoder(low, reduced, features, number, task) for task, number in channels.items()}
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images [N, 3, H, W] to outputs, task -> [N, channels of the task, H, W]."""
        size = x.shape[2:]
        low = x
        for index, layer in enumerate(self.features):
            x = layer(x)
            # The last of a quarter of the image's height and width.
            if index == 3:
                low = x
        x = self.raspp(x)
        return {task: head(x, low, size) for task, head in self.heads.items()}


def _conv_layer(
    in_channels: int, channels: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution that keeps height and width, or divides them by its stride, batch normalisation and ReLU6."""
    padding = kernel // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


def _separable(in_channels: int, channels: int) -> nn.Sequential:
    """A 3x3 convolution in each channel and a 1x1 one across them."""
    return nn.Sequential(
        _conv_layer(in_channels, in_channels, kernel=3, groups=in_channels), _conv_layer(in_channels, channels)
    )


def _scaled(channels: int, width: float) -> int:
    """Channels at a width: the nearest multiple of 8, but not less than nine tenths, as MobileNetV2's authors round."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def mobilenet_v2(channels: Mapping[str, int] | None = None, width: float = 1.0) -> MobileNetV2:
    """MobileNetV2 as the paper uses it on PASCAL-Context: 108 shared layers, 1,927,168 shared parameters.

    :param channels: task -> channels of its output; the four tasks of PASCAL-Context if it is not given. A task with
        the name `normals` has unit vectors.
    :param width: the width multiplier.
    """
    return MobileNetV2(channels or PASCAL_CONTEXT, width)
