"""One backward pass for each task, whose gradients are held until the weights follow from their Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from recon_cli.gradients.engine import LayerGrams
from recon_cli.gradients.routes.route import ParameterWeights
from recon_cli.layers.discovery import Layer
from recon_cli.rules.rule import WeightRule
from recon_cli.updating.rule_groups import GroupWeights, RuleGroups
from recon_cli.updating.shared_layers import SharedLayers
from recon_cli.updating.step import Step
from recon_cli.updating.ways.way import GradientWay, Measured


class ByGram(GradientWay):
    """Weighs the gradients of the shared layers."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        rules: RuleGroups[WeightRule[Any]],
        shared: SharedLayers,
        measured: Measured,
        features: Sequence[str] = (),
        *,
        sharded: bool = False,
    ) -> None:
        super().__init__(model, layers, shared, measured, features or measured.features, sharded=sharded)
        self._rules = rules

    def _update(self, found: LayerGrams, step: Step) -> None:
        self.engine.combine(self._by_parameter(self._weights(found, step), step), accumulate=True)

    def _by_parameter(self, weights: GroupWeights, step: Step) -> ParameterWeights:
        shared = list(weights.shared[:, step.present].to(step.device))
        heads = weights.heads[step.present].to(step.device)
        groups = self._shared.groups_of_parameters()

        def weights_of(parameter: torch.Tensor) -> torch.Tensor:
            group = groups.get(id(parameter))
            return heads if group is None else shared[group]

        return weights_of

    def _weights(self, found: LayerGrams, step: Step) -> GroupWeights:
        if len(step.present) == step.tasks:
            self._shared.check_seen()
        return self._rules.weights(self._shared.grams_of_groups(found.grams), step, self._shared.groups)
