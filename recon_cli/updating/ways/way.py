"""What all ways have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.engine import LayerGrams
from recon_cli.gradients.engines import Engine, make_engine
from recon_cli.layers.discovery import Layer
from recon_cli.updating.shared_layers import SharedLayers
from recon_cli.updating.step import Step


@dataclass(frozen=True)
class Measured:
    """What is measured on some steps, whatever the rule sees.

    :ivar layers: the layers whose Gram matrices are wanted.
    :ivar features: modules whose outputs are shared representations.
    :ivar memory_limit: bytes that the gradients of several tasks may take at a time, where it can be limited; see
        `GramEngine`.
    """

    layers: Sequence[Layer] = ()
    features: Sequence[str] = ()
    memory_limit: int | None = None


class Way(ABC):
    """A way from the losses of a step to `.grad`.

    :ivar IS_PLAIN: whether a step that is not measured is an ordinary backward pass of one loss.
    :ivar engine: makes the backward passes of measured steps.
    """

    IS_PLAIN: ClassVar[bool] = False
    engine: Engine

    def watch(self, *, measured: bool) -> None:
        """Note in the forward pass to come what the step's backward passes need of it."""
        self.unwatch()
        if measured:
            self.engine.watch()

    def unwatch(self) -> None:
        """Note nothing any more; what was noted is kept for the backward passes."""
        self.engine.unwatch()

    def forward(self) -> AbstractContextManager[None]:
        """What a forward pass should run in, so that the step's backward passes can be made of it."""
        return nullcontext()

    def state(self) -> dict[str, Any]:
        """What was learned besides what rules and layers know; plain data and tensors."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # most ways have nothing to restore
        """Go on where another one was."""

    @abstractmethod
    def backward(self, step: Step, *, measured: bool) -> LayerGrams | None:
        """Make the backward passes of a step, and add the update to `.grad`.

        :param measured: whether the step is measured, as `watch` was told.
        :returns: what was measured, of the tasks that are present.
        """


class GradientWay(Way):
    """A way that holds the gradients of all tasks, until an update is made of them.

    :param layers: all layers of the network.
    :param features: modules whose outputs are shared representations, those that are measured first.
    :param whole: whether no shorter route is taken to the Gram matrices; see `GramEngine`.
    :param sharded: whether the network is sharded over the ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        shared: SharedLayers,
        measured: Measured,
        features: Sequence[str],
        *,
        whole: bool = False,
        sharded: bool = False,
    ) -> None:
        self._shared = shared
        number_of = {layer.name: number for number, layer in enumerate(layers)}
        self._measured = [number_of[layer.name] for layer in measured.layers]
        self._features = len(measured.features)
        self.engine = make_engine(model, layers, measured.memory_limit, features, whole=whole, sharded=sharded)

    def watch(self, *, measured: bool) -> None:
        """Note the calls of layers; of shared representations only on measured steps."""
        self.engine.watch(features=measured)

    def backward(self, step: Step, *, measured: bool) -> LayerGrams | None:
        """Make one backward pass for each task."""
        found = self.engine.backward(step.in_order)
        self._shared.note(found.reached, step.present)
        self._update(found, step)
        return found.part(self._measured, self._features) if measured else None

    @abstractmethod
    def _update(self, found: LayerGrams, step: Step) -> None:
        """Add the update to `.grad`, made of the gradients that the engine holds."""


def backward_over_ranks(
    model: nn.Module,
    losses: Sequence[torch.Tensor],
    ranks: Ranks,
    factors: Sequence[float] | None = None,
    *,
    retain_graph: bool = False,
) -> None:
    """A backward pass whose gradients are added up over the ranks, and then to those that are there already.

    :param factors: what each loss is multiplied by; None for 1.
    """
    if ranks.size == 1:
        _run_backward(losses, factors, retain_graph=retain_graph)
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    _run_backward(losses, factors, retain_graph=retain_graph)
    ranks.sum_gradients(parameters)
    for parameter, gradient in zip(parameters, before, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)


def _run_backward(losses: Sequence[torch.Tensor], factors: Sequence[float] | None, *, retain_graph: bool) -> None:
    # A penalty on pairs of tasks is a constant where there is no pair.
    places = [place for place, loss in enumerate(losses) if loss.requires_grad]
    if not places:
        return
    roots = [losses[place] for place in places]
    # The pass begins with the factors: to multiply the losses by them would put as many operations before and behind.
    gradients = None if factors is None else [losses[place].new_full((), factors[place]) for place in places]
    torch.autograd.backward(roots, gradients, retain_graph=retain_graph)
