"""Data: the small sets that ship with Recon, and loaders of the papers' data."""

from recon_cli.datasets.census_income import CensusIncome, census_income, small_census_income
from recon_cli.datasets.multi_fashion_mnist import (
    MultiFashionMNIST,
    multi_fashion_mnist,
    small_multi_fashion_mnist,
)

__all__ = [
    "CensusIncome",
    "MultiFashionMNIST",
    "census_income",
    "multi_fashion_mnist",
    "small_census_income",
    "small_multi_fashion_mnist",
]
