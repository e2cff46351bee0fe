"""The sizes of the papers' networks, against the papers' figures and sums over the widths of their layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from recon_cli.layers.discovery import discover_layers
from recon_cli.zoo import celeba_resnet18, mobilenet_v2, mtan, resnet18, segnet
from recon_cli.zoo.pixels import CITYSCAPES, NYUV2, PASCAL_CONTEXT
from recon_cli.zoo.resnet import CELEBA_ATTRIBUTES


def conv(before: int, after: int, kernel: int, *, bias: bool = False, groups: int = 1) -> int:
    return before // groups * after * kernel * kernel + (after if bias else 0)


def normed(before: int, after: int, kernel: int, *, bias: bool = False, groups: int = 1) -> int:
    """A convolution and the two parameters for each channel of a BatchNorm."""
    return conv(before, after, kernel, bias=bias, groups=groups) + 2 * after


def chain(*widths: int) -> int:
    return sum(normed(before, after, 3, bias=True) for before, after in pairwise(widths))


def pixel_head(channels: int) -> int:
    return conv(64, 64, 3, bias=True) + conv(64, channels, 1, bias=True)


SEGNET = (
    chain(3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    + chain(512, 512, 512, 512, 256, 256, 256, 128, 128, 128, 64, 64, 64, 64)
)  # fmt: skip


def masks(*widths: tuple[int, int]) -> int:
    return sum(normed(before, after, 1, bias=True) + normed(after, after, 1, bias=True) for before, after in widths)


MASKS = masks((64, 64), (256, 128), (512, 256), (1024, 512), (1024, 512)) + masks(
    (512 + 512, 512), (512 + 256, 256), (256 + 128, 128), (128 + 64, 64), (64 + 64, 64)
)
BETWEEN_MASKS = chain(64, 128, 256, 512, 512, 512) + chain(512, 512, 256, 128, 64, 64)


def inverted(before: int, after: int) -> int:
    hidden = 6 * before
    return normed(before, hidden, 1) + normed(hidden, hidden, 3, groups=hidden) + normed(hidden, after, 1)


BLOCKS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
MOBILENET = (
    normed(3, 32, 3) + normed(32, 32, 3, groups=32) + normed(32, 16, 1)
    + sum(inverted(before, after) for before, after in pairwise(BLOCKS))
)  # fmt: skip
RASPP = 2 * normed(320, 128, 1) + normed(256, 128, 1)


def decoder(channels: int) -> int:
    separable = normed(176, 176, 3, groups=176) + normed(176, 128, 1) + normed(128, 128, 3, groups=128)
    return normed(24, 48, 1) + separable + normed(128, 128, 1) + conv(128, channels, 1, bias=True)


def resnet(channels: int) -> int:
    stages = 4 * normed(64, 64, 3)
    for width in (64, 128, 256):
        stages += normed(width, 2 * width, 3) + 3 * normed(2 * width, 2 * width, 3) + normed(width, 2 * width, 1)
    return normed(channels, 64, 7) + stages


@dataclass(frozen=True)
class Paper:
    """A network of the paper.

    :ivar shared: parameters that all tasks share, from the widths of layers.
    :ivar own: those that each task has alone.
    :ivar layers: shared layers.
    :ivar joint: MB of the network in the paper's table.
    :ivar single: MB of a network for each task in the paper's table; those of MTAN are SegNets.
    """

    make: Callable[[Sequence[str]], nn.Module]
    shared: int
    own: dict[str, int]
    layers: int
    joint: float
    single: float | None


def of_channels(make: Callable[[dict[str, int]], nn.Module], channels: dict[str, int], tasks: Sequence[str]):
    return make({task: channels[task] for task in tasks})


def pixel_tasks(channels: dict[str, int], own: int = 0) -> dict[str, int]:
    return {task: own + pixel_head(number) for task, number in channels.items()}


# The paper's Tables 3, 15, 5, 16, 4, 2 and 1.
PAPERS = {
    "SegNet on CityScapes": Paper(
        partial(of_channels, segnet, CITYSCAPES), SEGNET, pixel_tasks(CITYSCAPES), 52, 95.43, 190.59
    ),
    "SegNet on NYUv2": Paper(partial(of_channels, segnet, NYUV2), SEGNET, pixel_tasks(NYUV2), 52, 95.58, 285.88),
    "MTAN on NYUv2": Paper(
        partial(of_channels, mtan, NYUV2), SEGNET + BETWEEN_MASKS, pixel_tasks(NYUV2, MASKS), 72, 168.72, None
    ),
    "MTAN on CityScapes": Paper(
        partial(of_channels, mtan, CITYSCAPES), SEGNET + BETWEEN_MASKS, pixel_tasks(CITYSCAPES, MASKS), 72, 157.19, None
    ),
    "MobileNetV2 on PASCAL-Context": Paper(
        partial(of_channels, mobilenet_v2, PASCAL_CONTEXT),
        MOBILENET + RASPP,
        {task: decoder(channels) for task, channels in PASCAL_CONTEXT.items()},
        108,
        8.04,
        30.09,
    ),
    "ResNet-18 on CelebA": Paper(
        celeba_resnet18, resnet(3), dict.fromkeys(CELEBA_ATTRIBUTES, 2 * 2048 + 2), 40, 43.26, 1706.03
    ),
    "ResNet-18 on Multi-Fashion+MNIST": Paper(
        lambda tasks: resnet18(classes=dict.fromkeys(tasks, 10)),
        resnet(1) + 512 * 100 + 100,
        dict.fromkeys(("fashion", "mnist"), 1010),
        41,
        42.81,
        85.62,
    ),
}


@pytest.fixture(params=list(PAPERS))
def paper(request):
    return PAPERS[request.param]


def make(paper: Paper, tasks: Sequence[str]) -> nn.Module:
    with torch.device("meta"):
        return paper.make(tasks)


def megabytes(model: nn.Module) -> float:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 2**20


def test_the_network_has_the_papers_size(paper):
    assert round(megabytes(make(paper, list(paper.own))), 2) == paper.joint


@pytest.mark.parametrize("name", [name for name, paper in PAPERS.items() if paper.single is not None])
def test_a_network_for_each_task_has_the_papers_size(name):
    paper = PAPERS[name]
    assert round(sum(megabytes(make(paper, [task])) for task in paper.own), 2) == paper.single


def test_shared_layers_and_those_of_each_task_have_the_sizes_that_their_widths_give(paper):
    layers = discover_layers(make(paper, list(paper.own)))
    own = {task: [layer for layer in layers if task in layer.name.split(".")] for task in paper.own}
    shared = [layer for layer in layers if not any(layer in group for group in own.values())]
    assert len(shared) == paper.layers
    assert sum(layer.size for layer in shared) == paper.shared
    assert {task: sum(layer.size for layer in group) for task, group in own.items()} == paper.own


def test_celeba_has_forty_attributes():
    assert len(set(CELEBA_ATTRIBUTES)) == len(CELEBA_ATTRIBUTES) == 40
    assert sorted(CELEBA_ATTRIBUTES) == list(CELEBA_ATTRIBUTES)
