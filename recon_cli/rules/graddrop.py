"""GradDrop: in every entry, gradients of one sign only."""

from __future__ import annotations

import torch
from pydantic import Field

from recon_cli.artifacts.document import Record
from recon_cli.rules.rule import GradientRule


class GradDropParameters(Record):
    """The parameter of GradDrop."""

    leak: float = Field(default=0.0, ge=0, le=1, description="what part of all gradients passes in any case")


class GradDrop(GradientRule[GradDropParameters]):
    """In every entry the sum of its positive parts with the probability (1 + sum_i g_i / sum_i |g_i|) / 2, or else that
    of its negative ones.

    This is the form on the gradients of parameters; the paper has it on those of features as well.
    """

    NAME = "graddrop"
    TITLE = "GradDrop"
    PAPER = "Chen et al., Just Pick a Sign: Gradient Sign Dropout, NeurIPS 2020"
    PARAMETERS = GradDropParameters
    PUBLISHED = "the sum of the gradients"

    def combined_sum(self, rows: torch.Tensor) -> torch.Tensor:
        """The update, [n]."""
        # A generator for the device, as its own numbers would have to be moved there.
        seed = int(torch.randint(1 << 62, (), generator=self.generator))
        drawn = torch.Generator(rows.device).manual_seed(seed)
        width = _PIECE if rows.device.type == "cpu" else max(rows.shape[1], 1)
        return torch.cat([self._picked(piece, drawn) for piece in torch.split(rows, width, dim=1)])

    def _picked(self, rows: torch.Tensor, drawn: torch.Generator) -> torch.Tensor:
        uniform = torch.rand(rows.shape[1], generator=drawn, dtype=rows.dtype, device=rows.device)
        positive, total = rows.clamp(min=0).sum(0), rows.sum(0)
        negative = total - positive
        picked = torch.where(uniform * (positive - negative) < positive, positive, negative)
        return total.lerp(picked, 1 - self.parameters.leak) if self.parameters.leak else picked


_PIECE = 1 << 15
"""So many entries of all tasks stay in a processor's cache from one operation to the next."""
