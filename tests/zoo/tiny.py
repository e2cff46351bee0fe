"""Narrow forms of the papers' networks, and a batch for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.zoo import celeba_resnet18, mobilenet_v2, mtan, segnet


@dataclass(frozen=True)
class Tiny:
    """A way to make a network, the channels of its outputs, and the size of its images.

    :ivar split: some of its shared layers, from all of its parts.
    """

    make: Callable[[], nn.Module]
    channels: dict[str, int]
    image: tuple[int, int]
    split: tuple[str, ...]

    def images(self) -> torch.Tensor:
        return torch.randn(3, 3, *self.image, generator=torch.Generator().manual_seed(1))

    def losses(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A loss of the kind of each task, against fixed random labels."""
        generator = torch.Generator().manual_seed(2)
        return {task: _loss(task, output, generator) for task, output in outputs.items()}


def _loss(task: str, output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if task == "depth":
        return F.l1_loss(output, torch.rand(output.shape, generator=generator))
    if task == "normals":
        target = F.normalize(torch.randn(output.shape, generator=generator), dim=1)
        return 1 - (output * target).sum(1).mean()
    if task == "saliency":
        return F.binary_cross_entropy_with_logits(output, torch.rand(output.shape, generator=generator))
    target = torch.randint(output.shape[1], (output.shape[0], *output.shape[2:]), generator=generator)
    return F.cross_entropy(output, target)


TINY = {
    "segnet": Tiny(
        lambda: segnet(filters=(4, 6, 8)),
        {"segmentation": 7, "depth": 1},
        (16, 24),
        ("encoder_block.0.conv1", "conv_block_enc.2.1.bn1", "decoder_block.0.conv1"),
    ),
    "mtan": Tiny(
        lambda: mtan(filters=(4, 6, 8)),
        {"segmentation": 13, "depth": 1, "normals": 3},
        (16, 24),
        ("encoder_block.1.conv1", "encoder_block_att.0.bn1", "conv_block_dec.1.bn1", "decoder_block_att.2.conv1"),
    ),
    "mobilenet_v2": Tiny(
        lambda: mobilenet_v2(width=0.1),
        {"segmentation": 21, "human_parts": 7, "saliency": 1, "normals": 3},
        (32, 48),
        ("features.2.conv.1.0", "features.15.conv.3", "raspp.projection.0"),
    ),
    "celeba_resnet18": Tiny(
        lambda: celeba_resnet18(("5_o_Clock_Shadow", "Male"), width=4),
        {"5_o_Clock_Shadow": 2, "Male": 2},
        (64, 64),
        ("bn1", "layer2.0.downsample.0", "layer4.1.conv2"),
    ),
}
