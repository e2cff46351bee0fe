"""Networks with a trunk that all tasks share and a head for each task."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.zoo import resnet18


class MultiTask(nn.Module):
    """A trunk and a head for each task."""

    def __init__(self, trunk: nn.Module, head: Callable[[], nn.Module], tasks: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(head() for _ in range(tasks))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map a batch to logits [N, classes, ...] for each task."""
        x = self.trunk(x)
        return [head(x) for head in self.heads]


class ResNetTrunk(nn.Module):
    """The paper's ResNet-18 without its heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = resnet18(in_channels=channels, classes={"features": 100})
        self.net.heads["features"] = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images to features [N, 100]."""
        features: torch.Tensor = self.net(x)["features"]
        return features


class SegNet(nn.Module):
    """An encoder and a mirrored decoder of 3x3 convolutions, which unpools to where the encoder found its maxima."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        before = (3, *widths[:-1])
        self.down = nn.ModuleList(convolutions(i, o, o) for i, o in zip(before, widths, strict=True))
        after = (widths[0], *widths[:-1])
        self.up = nn.ModuleList(convolutions(i, i, o) for i, o in zip(reversed(widths), reversed(after), strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to features [N, widths[0], H, W]."""
        maxima = []
        for stage in self.down:
            x, where = F.max_pool2d(stage(x), 2, return_indices=True)
            maxima.append(where)
        for stage in self.up:
            x = stage(F.max_unpool2d(x, maxima.pop(), [2, 2]))
        return x


def convolutions(*widths: int) -> nn.Sequential:
    """3x3 convolutions from each width to the next, with batch normalisation and ReLU."""
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)


def pixel_head() -> nn.Module:
    """A head of two convolutions behind a SegNet."""
    return nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 13, 1))


class Encoder(nn.Module):
    """A transformer encoder, averaged over the sequence."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map sequences [N, L, width] to features [N, width]."""
        features: torch.Tensor = self.layers(x).mean(1)
        return features


class Recommender(nn.Module):
    """A large embedding, and a small network on the mean of what is looked up."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 32)
        self.net = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids [N, L] to features [N, 64]."""
        features: torch.Tensor = self.net(self.table(ids).mean(1))
        return features


def mlp(width: int, depth: int) -> nn.Module:
    """Linear layers of one width, each with ReLU."""
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())))
