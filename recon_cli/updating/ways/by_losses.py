"""One backward pass of the weighted losses, for rules whose weights need no gradient."""

from __future__ import annotations

from typing import Any

from torch import nn

from recon_cli.experiment.ranks import ALONE
from recon_cli.gradients.engine import LayerGrams
from recon_cli.gradients.engines import make_engine
from recon_cli.rules.rule import WeightRule
from recon_cli.updating.rule_groups import RuleGroups
from recon_cli.updating.step import Step
from recon_cli.updating.ways.way import Measured, Way, backward_over_ranks


class ByLosses(Way):
    """Weighs the losses.

    :param averaged: whether plain steps' gradients are averaged over the ranks elsewhere, within the backward pass
        (DistributedDataParallel, FSDP2); else they are added up here.
    :param sharded: whether the network is sharded over the ranks.
    """

    IS_PLAIN = True

    def __init__(
        self,
        model: nn.Module,
        rules: RuleGroups[WeightRule[Any]],
        measured: Measured,
        *,
        averaged: bool,
        sharded: bool = False,
    ) -> None:
        self._model = model
        self._rules = rules
        self._averaged = averaged
        self.engine = make_engine(model, measured.layers, measured.memory_limit, measured.features, sharded=sharded)

    def backward(self, step: Step, *, measured: bool) -> LayerGrams | None:
        """Make one backward pass, or one for each task on a measured step."""
        rule = self._rules.first
        weights = rule.weights(step.observation()).heads if rule.needs else self._rules.joint_weights(step)
        if measured:
            return self.engine.backward(step.in_order, weights[step.present].to(step.device), accumulate=True)
        factors = step.factors(weights, averaged=self._averaged)
        ranks = ALONE if self._averaged else step.ranks
        backward_over_ranks(self._model, list(step.scaled.values()), ranks, factors)
        return None
