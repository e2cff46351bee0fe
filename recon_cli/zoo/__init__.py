"""Networks: the paper's, and small ones for trying things out."""

from recon_cli.zoo.resnet import ResNet, resnet18, small_resnet

__all__ = ["ResNet", "resnet18", "small_resnet"]
