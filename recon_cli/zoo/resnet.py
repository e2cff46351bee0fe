"""Residual networks (He et al., 2016) with a shared trunk and one linear layer per task.

Layers have the names under which the literature reports them (`conv1`, `layer1.0.bn1`, `layer2.0.downsample.0`, `fc`).
The networks can be compiled to TorchScript, traced and exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
"""The attributes in CelebA's order and spelling."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    :param in_channels: channels of the input.
    :param channels: channels of the output.
    :param stride: stride of the first convolution; 2 halves height and width.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] to [N, channels, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNetTrunk(nn.Module):
    """The convolutions of a residual network.

    :param widths: channels of each of three or four stages; every stage after the first halves height and width.
    :param blocks: number of blocks in each stage.
    :param stem: kernel size of the first convolution, which has stride 2.
    :param pool: whether max-pooling halves height and width once more, as in the original.
    :param in_channels: channels of the images.
    """

    def __init__(
        self, widths: Sequence[int], blocks: Sequence[int], *, stem: int, pool: bool, in_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], stem, stride=2, padding=stem // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, padding=1) if pool else nn.Identity()
        self.layer1 = _stage(widths[0], widths[0], blocks[0], stride=1)
        self.layer2 = _stage(widths[0], widths[1], blocks[1], stride=2)
        self.layer3 = _stage(widths[1], widths[2], blocks[2], stride=2)
        self.layer4 = _stage(widths[2], widths[3], blocks[3], stride=2) if len(widths) > 3 else None

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, in_channels, H, W] to features [N, widths[-1], height, width] of the last stage."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x if self.layer4 is None else self.layer4(x)


class ResNet(ResNetTrunk):
    """A residual trunk that ends in a linear layer `fc` on the mean over the image, and a linear head for each task.

    Takes the parameters of :class:`ResNetTrunk`, and

    :param features: size of the trunk's output.
    :param classes: task -> number of its classes.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        *,
        stem: int,
        pool: bool,
        in_channels: int,
        features: int,
        classes: Mapping[str, int],
    ) -> None:
        super().__init__(widths, blocks, stem=stem, pool=pool, in_channels=in_channels)
        self.fc = nn.Linear(widths[-1], features)
        self.heads = nn.ModuleDict({task: nn.Linear(features, number) for task, number in classes.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images [N, in_channels, H, W] to logits, task -> [N, classes of the task]."""
        x = F.relu(self.fc(self.trunk(x).mean(dim=(2, 3))))
        return {task: head(x) for task, head in self.heads.items()}


class CelebAResNet(ResNetTrunk):
    """ResNet-18 with a linear head for each yes-or-no task on the 2x2 features that an image of 64x64 pixels has.

    Other images' features are averaged to 2x2.

    :param width: channels of the first stage.
    :param tasks: the tasks' names.
    """

    def __init__(self, width: int, tasks: Sequence[str]) -> None:
        super().__init__((width, 2 * width, 4 * width, 8 * width), (2, 2, 2, 2), stem=7, pool=True, in_channels=3)
        self.heads = nn.ModuleDict({task: nn.Linear(4 * 8 * width, 2) for task in tasks})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images [N, 3, H, W] to logits of no and yes, task -> [N, 2]."""
        x = F.adaptive_avg_pool2d(self.trunk(x), 2).flatten(1)
        return {task: head(x) for task, head in self.heads.items()}


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width, of which the first has the stride."""
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *[BasicBlock(channels, channels, 1) for _ in range(blocks - 1)])


def resnet18(
    in_channels: int = 1, features: int = 100, classes: Mapping[str, int] | None = None, width: int = 64
) -> ResNet:
    """ResNet-18 as the paper uses it on Multi-Fashion+MNIST: 41 shared layers, 11,221,540 shared parameters.

    :param width: channels of the first stage; every later one has twice as many.
    """
    return ResNet(
        (width, 2 * width, 4 * width, 8 * width),
        (2, 2, 2, 2),
        stem=7,
        pool=True,
        in_channels=in_channels,
        features=features,
        classes=classes or {"fashion": 10, "mnist": 10},
    )


def small_resnet(in_channels: int = 1, features: int = 64, classes: Mapping[str, int] | None = None) -> ResNet:
    """A ResNet of three narrow stages, for the demo: 19 shared layers, some 80,000 parameters."""
    return ResNet(
        (16, 32, 64),
        (1, 1, 1),
        stem=5,
        pool=False,
        in_channels=in_channels,
        features=features,
        classes=classes or {"fashion": 10, "mnist": 10},
    )


def celeba_resnet18(tasks: Sequence[str] = CELEBA_ATTRIBUTES, width: int = 64) -> CelebAResNet:
    """ResNet-18 for the attributes of CelebA: 40 shared layers, 11,176,512 shared parameters.

    The paper follows Sener and Koltun (2018), whose heads have two classes and see the 2048 features that an image of
    64x64 pixels has.
    """
    return CelebAResNet(width, tasks)
