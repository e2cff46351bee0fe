"""Networks: the papers', and small ones for trying things out."""

from recon_cli.zoo.mlp import MLP, census_mlp
from recon_cli.zoo.resnet import ResNet, resnet18, small_resnet

__all__ = ["MLP", "ResNet", "census_mlp", "resnet18", "small_resnet"]
