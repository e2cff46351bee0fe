"""Data: the small sets that ship with Recon, and loaders of the papers' data."""

from recon_cli.datasets.celeba import CelebA, celeba
from recon_cli.datasets.census_income import CensusIncome, census_income, small_census_income
from recon_cli.datasets.mtan import ArrayFolders, cityscapes, nyuv2
from recon_cli.datasets.multi_fashion_mnist import (
    MultiFashionMNIST,
    multi_fashion_mnist,
    small_multi_fashion_mnist,
)
from recon_cli.datasets.pascal_context import PascalContext, pascal_context

__all__ = [
    "ArrayFolders",
    "CelebA",
    "CensusIncome",
    "MultiFashionMNIST",
    "PascalContext",
    "celeba",
    "census_income",
    "cityscapes",
    "multi_fashion_mnist",
    "nyuv2",
    "pascal_context",
    "small_census_income",
    "small_multi_fashion_mnist",
]
