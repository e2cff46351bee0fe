"""The gradients of the tasks with respect to a shared representation Z, and one backward pass from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.engine import GramEngine, LayerGrams
from recon_cli.gradients.routes.by_feature import ByFeature as FeatureGradients
from recon_cli.gradients.surrogate import GradientSurrogate
from recon_cli.layers.discovery import Layer
from recon_cli.rules.rule import WeightRule
from recon_cli.updating.rule_groups import GroupWeights, RuleGroups
from recon_cli.updating.shared_layers import SharedLayers
from recon_cli.updating.step import Step
from recon_cli.updating.ways.by_gram import ByGram
from recon_cli.updating.ways.way import Measured


class ByFeature(ByGram):
    """Weighs the gradients of the trunk by the Gram matrix of dL_i/dZ (MGDA-UB, Aligned-MTL-UB).

    Measured steps, and those of several ranks, each of which has only a part of Z, go the way of `ByGram`.

    :param feature: the name of the module whose output is Z.
    """

    engine: GramEngine

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        rules: RuleGroups[WeightRule[Any]],
        shared: SharedLayers,
        measured: Measured,
        feature: str,
    ) -> None:
        features = list(dict.fromkeys([*measured.features, feature]))
        super().__init__(model, layers, rules, shared, measured, features)
        self._feature = feature
        self._number = features.index(feature)
        self._surrogate = GradientSurrogate(model, feature)

    def watch(self, *, measured: bool) -> None:
        """Note where Z lies, and the calls of layers where they are needed."""
        self.unwatch()
        self._surrogate.watch()
        if not self._goes_short(measured=measured):
            self.engine.watch()

    def unwatch(self) -> None:
        """Note nothing any more."""
        super().unwatch()
        self._surrogate.unwatch()

    def backward(self, step: Step, *, measured: bool) -> LayerGrams | None:
        """Make one backward pass for each task down to Z, and one from there."""
        losses = [loss for loss in step.in_order if loss is not None]
        if not self._goes_short(measured=measured):
            self._look_at(losses, step)
            return super().backward(step, measured=measured)
        gram = self._surrogate.backward(losses)
        self._shared.note_layout(self._surrogate.layout, step.present)
        weights = self._weights_by(gram, self._surrogate.gradients, step)
        shared = weights.shared[0, step.present].to(gram.device)
        self._surrogate.combine(shared, self._by_parameter(weights, step), accumulate=True)
        return None

    def _look_at(self, losses: Sequence[torch.Tensor], step: Step) -> None:
        """Refuse on all steps what is refused on short ones, and take the same layers for shared."""
        # Ranks that lack some of the losses see other parts of the graph.
        if step.ranks.size == 1:
            self._shared.note_layout(self._surrogate.layout_of(losses), step.present)

    def _weights(self, found: LayerGrams, step: Step) -> GroupWeights:
        if not found.features.reached[self._number].any():
            raise ReconError(
                f"no loss reaches an output of module {quoted(self._feature)}",
                "name a module that the forward pass calls",
            )
        return self._weights_by(found.features.grams[self._number], self.engine.feature(self._number), step)

    def _weights_by(
        self,
        gram: torch.Tensor,
        gradients: FeatureGradients | None,  # noqa: ARG002 - for ways that need more than their products
        step: Step,
    ) -> GroupWeights:
        """The weights of a step.

        :param gram: of dL_i/dZ, [P, P].
        :param gradients: dL_i/dZ itself, as far as it is this rank's.
        """
        return self._rules.weights(gram.unsqueeze(0).cpu(), step, {0})

    @staticmethod
    def _goes_short(*, measured: bool) -> bool:
        return not measured and Ranks.current().size == 1
