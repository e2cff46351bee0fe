"""IMTL: losses brought to one size, and an update that all of them profit from alike."""

from __future__ import annotations

from typing import Any, ClassVar

from recon_cli.rules.imtl_g import IMTLG
from recon_cli.rules.imtl_l import IMTLL
from recon_cli.rules.rule import Need, Observation, Weights


class IMTL(IMTLL):
    """IMTL-L for the heads, and IMTL-G on the gradients of the scaled losses for what is shared.

    IMTL-G depends on the directions of gradients alone, so that the scales change its update in size only.
    """

    NAME = "imtl"
    TITLE = "IMTL"
    NEEDS: ClassVar[tuple[Need, ...]] = ("losses", "gram")
    PUBLISHED = "the weights of the scaled gradients add up to 1"
    EXCEPTION = "the weights of heads follow the size of the losses, also of all of them"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._impartial = IMTLG(self.tasks, scale=self.scale)

    def weights(self, seen: Observation) -> Weights:
        """The weights of this step."""
        scales = self.scales[0].exp()
        shared = self._impartial.weights(seen).shared
        heads = super().weights(seen).heads
        if self.scale == "published":
            # sum(v) = 1 for the weights v of scaled gradients, which are the w of the gradients, divided by exp(s).
            total = (shared / scales).sum()
            shared = shared / total if total.abs() > _NO_TOTAL * shared.abs().sum() else shared
        return Weights(shared, heads)


_NO_TOTAL = 1e-9
