"""Networks: the papers', and small ones for trying things out."""

from recon_cli.zoo.mlp import MLP, census_mlp
from recon_cli.zoo.mobilenet import MobileNetV2, mobilenet_v2
from recon_cli.zoo.resnet import CelebAResNet, ResNet, celeba_resnet18, resnet18, small_resnet
from recon_cli.zoo.segnet import MTAN, SegNet, mtan, segnet

__all__ = [
    "MLP",
    "MTAN",
    "CelebAResNet",
    "MobileNetV2",
    "ResNet",
    "SegNet",
    "celeba_resnet18",
    "census_mlp",
    "mobilenet_v2",
    "mtan",
    "resnet18",
    "segnet",
    "small_resnet",
]
