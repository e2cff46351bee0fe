"""Data: the small set that ships with Recon, and loaders of the papers' data."""

from recon_cli.datasets.multi_fashion_mnist import (
    MultiFashionMNIST,
    multi_fashion_mnist,
    small_multi_fashion_mnist,
)

__all__ = ["MultiFashionMNIST", "multi_fashion_mnist", "small_multi_fashion_mnist"]
