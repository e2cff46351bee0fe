"""The first-order bi-level search: alpha on a validation batch, then the weights on a training batch (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recon_cli.artifacts.search import SearchStage, TaskChoice
from recon_cli.errors import NonFiniteError
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.targets import user_code
from recon_cli.gradients.engine import GramEngine
from recon_cli.layers.discovery import Layer
from recon_cli.search.candidates import Candidates, branch_point
from recon_cli.search.chain import Chain
from recon_cli.search.learning import Learning, Material
from recon_cli.search.noticing import Noticed
from recon_cli.search.supernet import SHARED

_ALPHA_LR = 5e-5
_ALPHA_DECAY = 1e-5
"""Both as in the authors' code."""


class Stage(Learning):
    """Learns the choices between candidate paths.

    The joint update of the shared modules that are looked at is zero where conflict noticing says so, all else is
    updated as ever.

    :param looked_at: the places of the shared modules that are looked at, in the order of the chain.
    """

    def __init__(self, material: Material, chain: Chain, candidates: Candidates, looked_at: Sequence[int]) -> None:
        rate = material.config.search.alpha_lr
        super().__init__(material, candidates, alpha_lr=_ALPHA_LR if rate is None else rate, alpha_decay=_ALPHA_DECAY)
        self._candidates = candidates
        modules = [candidates.copy_of(place, SHARED) for place in looked_at]
        names = [chain.modules[place].name for place in looked_at]
        self._noticed = Noticed(names)
        self._engine = GramEngine(candidates, [_as_layer(*each) for each in zip(names, modules, strict=True)])
        self._place_of = {id(p): place for place, module in enumerate(modules) for p in module.parameters()}

    def advance(self) -> None:
        """Update alpha, then the weights."""
        self._learn_alpha()
        self._learn_weights()
        self.step += 1

    def record(self) -> SearchStage:
        """What was learned and noticed."""
        probabilities, chosen = self._candidates.probabilities(), self._candidates.chosen()
        return SearchStage(
            steps=self.step,
            choices=tuple(
                TaskChoice(
                    task=task,
                    points=tuple(branch_point(path) for path in self._candidates.paths[task]),
                    probabilities=tuple(of_task),
                    chosen=branch_point(chosen[task]),
                )
                for task, of_task in probabilities.items()
            ),
            conflicts=self._noticed.records(),
        )

    def _backward(self, batch: Batch, share: float) -> bool:
        self._engine.watch()
        try:
            losses = self._losses(batch, range(len(self._tasks)))
        finally:
            self._engine.unwatch()
        scale = self._weights.scale
        with user_code("the backward pass"):
            found = self._engine.backward([loss * scale for loss in losses])
        if not bool(found.grams.isfinite().all()):
            if scale <= 1:
                raise NonFiniteError(
                    f"a gradient of a shared module became NaN or infinite in step {self.step + 1}",
                    "lower the learning rate",
                )
            return False
        updated = self._noticed.notice(found.grams).tolist()
        joint = torch.full((len(losses),), share / len(losses), dtype=torch.float64, device=found.grams.device)
        nothing = torch.zeros_like(joint)

        def weights(parameter: torch.Tensor) -> torch.Tensor:
            place = self._place_of.get(id(parameter))
            return joint if place is None or updated[place] else nothing

        self._engine.combine(weights, accumulate=True)
        return True


def _as_layer(name: str, module: nn.Module) -> Layer:
    """A whole module as one layer, as conflicts are looked for in its gradient as one vector."""
    return Layer(name, type(module).__name__, (), dict(module.named_parameters()))
