"""Feature Disentanglement: on how few tasks the saliency of a shared representation's positions is concentrated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_COLUMNS = 1 << 17


@dataclass(frozen=True)
class SaliencyEntropy:
    """The entropies of a representation's positions, summed; or those of several representations.

    FD is `total / positions`: 0 where every position matters to one task only, ln T where it matters to all T alike.

    :ivar total: float64, scalar or [F]: the sum of E_j over the positions that are salient to any task.
    :ivar positions: int64, likewise: the number of those positions.
    :ivar silent: int64, likewise: the number of the others, where every task's gradient is 0; they have no distribution
        over the tasks, and are left out.
    """

    total: torch.Tensor
    positions: torch.Tensor
    silent: torch.Tensor

    def cpu(self) -> SaliencyEntropy:
        """The same, on the CPU."""
        return SaliencyEntropy(self.total.cpu(), self.positions.cpu(), self.silent.cpu())


def saliency_entropy(gradients: torch.Tensor, scales: torch.Tensor | None = None) -> SaliencyEntropy:
    """E_j = -sum_i p_ij ln p_ij with p_ij = |dL_i/dZ_j| / sum_k |dL_k/dZ_j| and 0 ln 0 = 0.

    These are the equations 7 and 8 of the paper on Feature Disentanglement. Every element of Z over the whole batch is
    a position, as the mean there runs over all dimensions of Z. The entropies are computed in the gradients' precision,
    half precision in float32, and summed in float64, a piece of Z after the other.

    :param gradients: [T, K], one row dL_i/dZ for each task.
    :param scales: [T], what the rows are to be multiplied with; None for nothing.
    """
    total = torch.zeros((), dtype=torch.float64, device=gradients.device)
    silent = torch.zeros((), dtype=torch.int64, device=gradients.device)
    for start in range(0, gradients.shape[1], _COLUMNS):
        saliency = gradients[:, start : start + _COLUMNS].abs()
        if saliency.dtype not in (torch.float32, torch.float64):
            saliency = saliency.float()
        if scales is not None:
            saliency = saliency * scales.to(saliency).unsqueeze(1)
        largest = saliency.amax(0)
        is_silent = largest == 0
        # In units of the largest one, so that no sum overflows or vanishes.
        shares = saliency / largest
        shares /= shares.sum(0)
        entropies = torch.special.entr(shares).sum(0)
        total += entropies.masked_fill_(is_silent, 0.0).sum(dtype=torch.float64)
        silent += is_silent.sum()
    return SaliencyEntropy(total, gradients.shape[1] - silent, silent)
