"""Aligned-MTL: gradients made orthogonal and of one length."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.grams import Active, spectrum
from recon_cli.rules.rule import GramRule


class AlignedMTLParameters(Record):
    """The parameter of Aligned-MTL."""

    scale_mode: Literal["min", "median", "rmse"] = Field(
        default="min", description="which of the principal lengths of the gradients all of them get"
    )


class AlignedMTL(GramRule[AlignedMTLParameters]):
    """With G = V diag(s^2) V' over the s > 0: w = B 1/T, where B = sigma V diag(1/s) V' and sigma is the least s (min),
    their median (the lower one of two), or their root mean square.
    """

    NAME = "aligned-mtl"
    TITLE = "Aligned-MTL"
    PAPER = "Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023"
    PARAMETERS = AlignedMTLParameters
    PUBLISHED = "the weights add up to 1 at most"

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        found = spectrum(active.gram)
        squares = {"min": found.values[0], "median": found.values.median(), "rmse": found.values.mean()}
        lengths = (squares[self.parameters.scale_mode] / found.values).sqrt()
        return (found.vectors * lengths) @ found.vectors.mean(0)
