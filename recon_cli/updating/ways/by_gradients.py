"""One backward pass for each task, whose gradients are combined entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from recon_cli.gradients.engine import LayerGrams
from recon_cli.layers.discovery import Layer
from recon_cli.rules.grams import check_finite
from recon_cli.rules.rule import GradientRule
from recon_cli.updating.rule_groups import RuleGroups
from recon_cli.updating.shared_layers import SharedLayers
from recon_cli.updating.step import Step
from recon_cli.updating.ways.way import GradientWay, Measured


class ByGradients(GradientWay):
    """Lets rules combine the gradients of the shared layers themselves."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        rules: RuleGroups[GradientRule[Any]],
        shared: SharedLayers,
        measured: Measured,
        *,
        sharded: bool = False,
    ) -> None:
        super().__init__(model, layers, shared, measured, measured.features, whole=True, sharded=sharded)
        self._rules = rules

    def _update(self, found: LayerGrams, step: Step) -> None:
        seen = step.observation()
        # Before anything is filled.
        squares = found.grams[self._shared.is_shared].diagonal(dim1=1, dim2=2).sum(0).cpu()
        check_finite(squares, [self._rules.first.tasks[task] for task in step.present], "gradient")
        heads = self._rules.joint_weights(step)[step.present].to(step.device)
        groups = self._shared.groups_of_parameters()

        def update(parameter: torch.Tensor, rows: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
            group = groups.get(id(parameter))
            if group is None:
                return heads[list(places)].to(rows.dtype) @ rows
            return self._rules.rules[group].combined(rows, seen, [step.present[place] for place in places])

        self.engine.combine_rows(update, accumulate=True)
