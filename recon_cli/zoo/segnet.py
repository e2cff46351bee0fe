"""SegNet (Badrinarayanan et al., 2017) and MTAN (Liu et al., 2019), its form with attention modules for each task.

The arrangement is that of MTAN's authors, which CAGrad and Recon took over. Layers have the names under which Recon's
authors published their scores (`encoder_block.0.conv1`, `conv_block_dec.4.1.bn1`, `decoder_block_att.1.bn1`), except in
the heads and the attention modules. The networks can be compiled to TorchScript, traced and exported.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.zoo.pixels import CITYSCAPES, NYUV2, end_of

FILTERS = (64, 128, 256, 512, 512)
"""Channels of the encoder's stages, as in VGG-16."""


class SegNet(nn.Module):
    """An encoder and a mirrored decoder, which unpools to where the encoder found its maxima, and a head for each task.

    Every stage has a first convolution (`encoder_block`, `decoder_block`) and one more, or from the third stage on two
    (`conv_block_enc`, `conv_block_dec`). Stages are numbered from the outermost, also in the decoder.

    :param channels: task -> channels of its output.
    :param filters: channels of each stage.
    """

    def __init__(self, channels: Mapping[str, int], filters: Sequence[int]) -> None:
        super().__init__()
        outer = _outer(filters)
        self.encoder_block = nn.ModuleList(
            _conv_layer(*widths) for widths in zip((3, *filters[:-1]), filters, strict=True)
        )
        self.conv_block_enc = nn.ModuleList(_further_layers(stage, width) for stage, width in enumerate(filters))
        self.decoder_block = _from_innermost([_conv_layer(*widths) for widths in zip(filters, outer, strict=True)])
        self.conv_block_dec = _from_innermost([_further_layers(stage, width) for stage, width in enumerate(outer)])
        self.heads = nn.ModuleDict({task: _head(filters[0], number, task) for task, number in channels.items()})

    def trunk(
        self, x: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Run encoder and decoder on images [N, 3, H, W].

        :returns: for each stage of the encoder, the outputs of its first convolution and of its last; for each stage of
            the decoder, from the innermost to the outermost, its unpooled input and its output.
        """
        entered: list[torch.Tensor] = []
        encoded: list[torch.Tensor] = []
        maxima: list[torch.Tensor] = []
        for block, further in zip(self.encoder_block, self.conv_block_enc, strict=True):
            entered.append(block(x))
            encoded.append(further(entered[-1]))
            x, where = F.max_pool2d(encoded[-1], 2, return_indices=True)
            maxima.append(where)
        unpooled: list[torch.Tensor] = []
        decoded: list[torch.Tensor] = []
        for block, further in zip(self.decoder_block.values(), self.conv_block_dec.values(), strict=True):
            unpooled.append(_unpool(x, maxima.pop(), like=encoded[-1 - len(decoded)]))
            x = further(block(unpooled[-1]))
            decoded.append(x)
        return entered, encoded, unpooled, decoded

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images [N, 3, H, W] to outputs, task -> [N, channels of the task, H, W]."""
        x = self.trunk(x)[-1][-1]
        return {task: head(x) for task, head in self.heads.items()}


class MTAN(SegNet):
    """A SegNet on whose features every task's attention modules lay masks (`encoder_att`, `decoder_att`).

    The convolutions behind the masks in the encoder and before them in the decoder (`encoder_block_att`,
    `decoder_block_att`) are shared: each is called once for every task, and its running statistics see all tasks.
    """

    def __init__(self, channels: Mapping[str, int], filters: Sequence[int]) -> None:
        super().__init__(channels, filters)
        inner, outer = (*filters[1:], filters[-1]), _outer(filters)
        seen = (filters[0], *(2 * width for width in filters[1:]))
        encoder_att, decoder_att = {}, {}
        for task in channels:
            encoder_att[task] = nn.ModuleList(_attention(*widths) for widths in zip(seen, filters, strict=True))
            decoder_att[task] = _from_innermost([_attention(i + o, o) for i, o in zip(filters, outer, strict=True)])
        # A ModuleDict does not say of which class its modules are.
        self.encoder_att: Any = nn.ModuleDict(encoder_att)
        self.decoder_att: Any = nn.ModuleDict(decoder_att)
        self.encoder_block_att = nn.ModuleList(_conv_layer(*widths) for widths in zip(filters, inner, strict=True))
        self.decoder_block_att = _from_innermost([_conv_layer(*widths) for widths in zip(filters, outer, strict=True)])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images [N, 3, H, W] to outputs, task -> [N, channels of the task, H, W]."""
        entered, encoded, unpooled, decoded = self.trunk(x)
        outputs: dict[str, torch.Tensor] = {}
        for (task, head), encoder_att, decoder_att in zip(
            self.heads.items(), self.encoder_att.values(), self.decoder_att.values(), strict=True
        ):
            for stage, (attention, block) in enumerate(zip(encoder_att, self.encoder_block_att, strict=True)):
                seen = entered[0] if stage == 0 else torch.cat((entered[stage], x), dim=1)
                x = F.max_pool2d(block(attention(seen) * encoded[stage]), 2)
            for stage, (attention, block) in enumerate(
                zip(decoder_att.values(), self.decoder_block_att.values(), strict=True)
            ):
                x = F.interpolate(x, size=unpooled[stage].shape[2:], mode="bilinear", align_corners=True)
                x = attention(torch.cat((unpooled[stage], block(x)), dim=1)) * decoded[stage]
            outputs[task] = head(x)
        return outputs


def _conv_layer(in_channels: int, channels: int) -> nn.Sequential:
    """A 3x3 convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(in_channels, channels, 3, padding=1), bn1=nn.BatchNorm2d(channels), relu1=nn.ReLU())
    )


def _unpool(x: torch.Tensor, where: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Put maxima back to where they were found; unlike `F.max_unpool2d` for any size of `like`, also when traced."""
    return torch.zeros_like(like).flatten(2).scatter(2, where.flatten(2), x.flatten(2)).view_as(like)


def _further_layers(stage: int, width: int) -> nn.Sequential:
    """The convolutions of a stage after its first."""
    if stage < 2:
        return _conv_layer(width, width)
    return nn.Sequential(_conv_layer(width, width), _conv_layer(width, width))


def _outer(filters: Sequence[int]) -> tuple[int, ...]:
    """The channels of the stage outside each stage; those of the outermost are its own."""
    return (filters[0], *filters[:-1])


def _from_innermost(stages: Sequence[nn.Module]) -> nn.ModuleDict:
    """Stages in the order in which a decoder runs them: TorchScript cannot go through a list of modules backwards."""
    return nn.ModuleDict({str(stage): stages[stage] for stage in reversed(range(len(stages)))})


def _attention(in_channels: int, channels: int) -> nn.Sequential:
    """A mask between 0 and 1 for each of a number of channels."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, channels, 1),
            bn1=nn.BatchNorm2d(channels),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(channels, channels, 1),
            bn2=nn.BatchNorm2d(channels),
            sigmoid2=nn.Sigmoid(),
        )
    )


def _head(width: int, channels: int, task: str) -> nn.Sequential:
    """The two convolutions of a task."""
    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(width, width, 3, padding=1), conv2=nn.Conv2d(width, channels, 1), end=end_of(task))
    )


def _initialise(module: nn.Module) -> None:
    """Draw the weights of a convolution as MTAN's authors do."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def segnet(channels: Mapping[str, int] | None = None, filters: Sequence[int] = FILTERS) -> SegNet:
    """SegNet as the paper uses it on CityScapes: 52 shared layers, 24,943,296 shared parameters.

    :param channels: task -> channels of its output; CityScapes' 7 classes and depth if it is not given. A task with the
        name `normals` has unit vectors.
    """
    return SegNet(channels or CITYSCAPES, filters).apply(_initialise)


def mtan(channels: Mapping[str, int] | None = None, filters: Sequence[int] = FILTERS) -> MTAN:
    """MTAN as the paper uses it on NYUv2: 72 shared layers, 35,163,456 shared parameters.

    :param channels: task -> channels of its output; NYUv2's 13 classes, depth and normals if it is not given. A task
        with the name `normals` has unit vectors.
    """
    return MTAN(channels or NYUV2, filters).apply(_initialise)
