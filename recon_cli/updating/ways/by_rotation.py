"""The gradients with respect to a shared representation Z, and rotations behind it that bring them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recon_cli.gradients.products import in_single_precision
from recon_cli.gradients.routes.by_feature import ByFeature as FeatureGradients
from recon_cli.layers.discovery import Layer
from recon_cli.rules.rule import WeightRule
from recon_cli.updating.rotations import RotatedModel, rotated_last
from recon_cli.updating.rule_groups import GroupWeights, RuleGroups
from recon_cli.updating.shared_layers import SharedLayers
from recon_cli.updating.step import Step
from recon_cli.updating.turning import Turning
from recon_cli.updating.ways.by_feature import ByFeature
from recon_cli.updating.ways.way import Measured


class ByRotation(ByFeature):
    """Weighs the gradients of the trunk by the Gram matrix of dL_i/dZ, and turns the rotations by them (RotoGrad).

    The rotations are moved in the backward pass already, once the gradients are known: nothing else reads them in a
    step.

    :param turning: makes the steps of the rotations.
    """

    def __init__(
        self,
        model: RotatedModel,
        layers: Sequence[Layer],
        rules: RuleGroups[WeightRule[Any]],
        shared: SharedLayers,
        measured: Measured,
        turning: Turning,
    ) -> None:
        super().__init__(model, layers, rules, shared, measured, model.rotated_feature)
        self._turning = turning

    def state(self) -> dict[str, Any]:
        """What the steps of the rotations go on from; the rotations themselves are the network's."""
        return {"turning": self._turning.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another one was."""
        self._turning.restore(state["turning"])

    def _look_at(self, losses: Sequence[torch.Tensor], step: Step) -> None:
        if step.ranks.size == 1:
            super()._look_at(losses, step)
            return
        with step.ranks.together():
            self._surrogate.layout_of(losses)

    def _weights_by(self, gram: torch.Tensor, gradients: FeatureGradients | None, step: Step) -> GroupWeights:
        weights = super()._weights_by(gram, gradients, step)
        # Each rank has looked whether one of its losses reaches Z.
        assert gradients is not None
        tasks = [step.present[place] for place in gradients.reached]
        rows = in_single_precision(rotated_last(gradients.gradients))
        parts = {task: row / step.scale / step.counts[task] for task, row in zip(tasks, rows, strict=True)}
        turned = [task for task, square in zip(step.present, gram.diagonal().tolist(), strict=True) if square > 0]
        self._turning.turn(parts, weights.shared[0], turned, step.ranks)
        return weights
