"""IMTL-G: the update whose projections on all gradients are equal."""

from __future__ import annotations

import torch

from recon_cli.rules.grams import Active, spectrum
from recon_cli.rules.rule import GramRule, NoParameters
from recon_cli.rules.simplex import shortest_mean


class IMTLG(GramRule[NoParameters]):
    """The weights with sum(w) = 1 for which (sum_i w_i g_i) . g_j / |g_j| is the same for all j; they may be negative.

    Where no weights that add up to something do that, the shortest mean of the gradients is taken, as MGDA does.
    """

    NAME = "imtl-g"
    TITLE = "IMTL-G"
    PAPER = "Liu et al., Towards Impartial Multi-task Learning, ICLR 2021"

    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient."""
        ones = torch.ones_like(active.norms)
        directions = spectrum(active.cosines).inverse @ ones
        weights = directions / active.norms
        total = weights.sum()
        # In the space of the gradients there is such an update only if the equations have a solution.
        if (active.cosines @ directions - ones).abs().max() > _MISSED or total.abs() <= _NO_TOTAL * weights.abs().sum():
            return shortest_mean(active.cosines, active.norms)
        return weights / total


_MISSED = 1e-6
_NO_TOTAL = 1e-9
