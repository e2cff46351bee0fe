"""One backward pass of the losses and a penalty on their gradients, which are differentiated a second time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from recon_cli.gradients.engine import GramEngine, LayerGrams
from recon_cli.gradients.graph import Graph, several_passes
from recon_cli.rules.rule import PenaltyRule
from recon_cli.updating.penalty import penalty_loss, second_derivatives, task_gradients
from recon_cli.updating.rule_groups import RuleGroups
from recon_cli.updating.shared_layers import SharedLayers
from recon_cli.updating.step import Step
from recon_cli.updating.ways.way import Measured, Way, backward_over_ranks


class ByPenalty(Way):
    """Adds a penalty on the gradients of the shared layers to the losses."""

    def __init__(
        self, model: nn.Module, rules: RuleGroups[PenaltyRule[Any]], shared: SharedLayers, measured: Measured
    ) -> None:
        self._model = model
        self._rules = rules
        self._shared = shared
        self.engine = GramEngine(model, measured.layers, measured.memory_limit, measured.features)

    def forward(self) -> AbstractContextManager[None]:
        """Attention runs as it was written: its fast kernels cannot be differentiated twice."""
        return sdpa_kernel(SDPBackend.MATH)

    def backward(self, step: Step, *, measured: bool) -> LayerGrams | None:
        """Make one backward pass for each task, and one through all of them."""
        weights = self._rules.joint_weights(step)
        # Products of gradients would be rounded to half precision in an autocast context that is still open.
        with second_derivatives(), several_passes(), torch.autocast(step.device.type, enabled=False):
            # It is made of products of two scaled gradients.
            penalty = self._penalty(step) / step.scale
            if not measured:
                backward_over_ranks(self._model, [step.weighted(weights) + penalty], step.ranks)
                return None
            backward_over_ranks(self._model, [penalty], step.ranks, retain_graph=True)
        return self.engine.backward(step.in_order, weights[step.present].to(step.device), accumulate=True)

    def _penalty(self, step: Step) -> torch.Tensor:
        parameters = [parameter for parameter in self._shared.parameters if parameter.requires_grad]
        if not parameters:
            return torch.zeros((), device=step.device)
        graph = Graph.behind(step.in_order)
        graph.check_repeatable()
        shares = [step.scaled[task] / step.counts[task] if task in step.losses else None for task in step.present]
        rows = task_gradients(shares, parameters)
        # Such nodes give zeros where there is no gradient.
        merged = [graph.is_merged_before(parameter) for parameter in parameters]
        flags = [
            gradient is not None and not (is_merged and not gradient.any())
            for row in rows
            for gradient, is_merged in zip(row, merged, strict=True)
        ]
        reached = torch.tensor(step.ranks.counts(flags)).view(len(rows), -1) > 0
        self._shared.note_parameters(parameters, reached, step.present)
        if len(step.present) == step.tasks:
            self._shared.check_seen()
        groups_of = self._shared.groups_of_parameters(looked_at=True)
        groups = {place: groups_of[id(p)] for place, p in enumerate(parameters) if id(p) in groups_of}

        def slopes(grams: torch.Tensor) -> torch.Tensor:
            at = torch.tensor(step.present)
            found = [
                rule.slopes(step.observation(gram))[at.unsqueeze(1), at]
                for rule, gram in zip(self._rules.rules, grams, strict=False)
            ]
            return torch.stack(found)

        return penalty_loss(rows, parameters, groups, slopes, step.ranks)
