"""One training step after the other by an update rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recon_cli.artifacts.method import Method
from recon_cli.errors import ReconError, listed, quoted
from recon_cli.experiment.ranks import ALONE, Ranks
from recon_cli.gradients.engine import LayerGrams
from recon_cli.layers.discovery import Layer, discover_layers
from recon_cli.rules.rotograd import RotoGrad
from recon_cli.rules.rule import GradientRule, Need, PenaltyRule
from recon_cli.updating.groups import Groups
from recon_cli.updating.rotations import RotatedModel
from recon_cli.updating.rule_groups import RuleGroups
from recon_cli.updating.second_forward import SecondForward
from recon_cli.updating.shared_layers import SharedLayers
from recon_cli.updating.step import Step
from recon_cli.updating.turning import Turning
from recon_cli.updating.ways.by_feature import ByFeature
from recon_cli.updating.ways.by_gradients import ByGradients
from recon_cli.updating.ways.by_gram import ByGram
from recon_cli.updating.ways.by_losses import ByLosses
from recon_cli.updating.ways.by_penalty import ByPenalty
from recon_cli.updating.ways.by_rotation import ByRotation
from recon_cli.updating.ways.way import Measured, Way

NOTHING_MEASURED = Measured()


class Stepper:
    """Adds the update of each step to `.grad`, by one rule, or by one for each group of layers.

    A layer is shared as soon as the losses of two tasks have reached it. Where several ranks train together, a task's
    loss is its mean over the ranks that have it, and so are the gradients that rules see.

    :param model: the network.
    :param tasks: the names of its tasks, T of them.
    :param method: the rule, and what it sees.
    :param measured: what is measured on some steps.
    :param seed: of rules that draw random numbers.
    :param averaged: whether gradients of plain steps are averaged over the ranks elsewhere (DistributedDataParallel).
    :param sharded: whether the network is sharded over the ranks (FSDP2), which averages the gradients of all steps;
        every rank has a loss of the same tasks.
    :raises ReconError: if there is no such rule, or it cannot be applied so.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[str],
        method: Method,
        *,
        measured: Measured = NOTHING_MEASURED,
        seed: int = 0,
        averaged: bool = False,
        sharded: bool = False,
    ) -> None:
        self._tasks = tuple(tasks)
        self._present: list[int] = []
        self._averaged = averaged or sharded
        self._is_sharded = sharded
        layers = discover_layers(model)
        groups = Groups.of(method, layers)
        self._rules: RuleGroups[Any] = RuleGroups(method, tasks, groups.names, seed)
        self._shared = SharedLayers(layers, len(tasks), groups)
        self._way = self._choose(model, tasks, layers, method, measured)
        self._second = SecondForward(model) if "new losses" in self.needs else None

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the rule needs."""
        return self._rules.needs

    @property
    def notes(self) -> Counter[str]:
        """What the rule had to say, and in how many steps."""
        return self._rules.notes

    @property
    def is_plain(self) -> bool:
        """Whether a step that is not measured is an ordinary backward pass of one loss."""
        return self._way.IS_PLAIN

    @contextmanager
    def forward(self, *, measured: bool) -> Iterator[None]:
        """What the forward pass of a step runs in, where it is in our hands."""
        self.watch(measured=measured)
        with self._way.forward():
            yield

    def watch(self, *, measured: bool) -> None:
        """Note in the forward pass to come what the step's backward passes need of it."""
        self._way.watch(measured=measured)
        if self._second is not None:
            self._second.forget()

    def backward(
        self, losses: Mapping[int, torch.Tensor], *, measured: bool, scale: float = 1.0
    ) -> tuple[LayerGrams | None, Step]:
        """Make the backward passes of one step, and add the update to `.grad`.

        :param losses: a scalar for each task that has one here, by its index.
        :param measured: whether the step is measured, as `watch` was told.
        :param scale: what the update is multiplied by in the backward passes already, against underflow.
        :returns: what was measured, of the tasks that have a loss on any rank; and the step.
        :raises ReconError: naming the tasks, if the rule can do nothing with a loss or a gradient.
        """
        if not scale > 0:
            raise ReconError(f"the losses cannot be scaled by {scale}", "give a factor above 0")
        self._way.unwatch()
        if self._second is not None:
            self._second.close_first()
        # Joint training whose gradients are averaged elsewhere has nothing to agree on.
        by_itself = self._averaged and not measured and not self.needs
        step = Step.of(losses, len(self._tasks), ALONE if by_itself else Ranks.current(), scale)
        # As `backward()` itself, wherever it is called.
        with torch.enable_grad():
            found = self._way.backward(step, measured=measured)
        # From a step that failed there is nothing to learn.
        if self._second is not None and self._present:
            self.notes[f"{self._rules.first.TITLE} learns nothing from a step without `after_step`"] += 1
        self._present = step.present
        return found, step

    def after_step(self, losses: Callable[[], Mapping[int, torch.Tensor]]) -> None:
        """Let a rule that needs it learn from the losses of the same batch after the optimizer's step.

        :param losses: a forward pass. It runs without a gradient, with the random numbers that the first one had, and
            leaves running statistics and random states as they are. It is not called if the rule does not need it.
        """
        if self._second is not None:
            step = Step.of(self._second.run(losses), len(self._tasks), Ranks.current())
            if missing := [self._tasks[task] for task in self._present if task not in step.present]:
                raise ReconError(
                    f"there is no loss of {listed(missing)} after the step, but there was one in it",
                    "give the losses on the same batch",
                )
            self._rules.after_step(step.values)
            self._present = []

    def after_epoch(self) -> None:
        """Let a rule that needs it learn from an epoch."""
        self._rules.after_epoch()

    def state(self) -> dict[str, Any]:
        """What was learned so far, as plain data and tensors."""
        return {**self._rules.state(), **self._shared.state(), **self._way.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another stepper of the same network and method was.

        :raises ReconError: if it was one of another network or method.
        """
        # Before anything is taken over.
        self._shared.check(state)
        self._rules.restore(state)
        self._shared.restore(state)
        self._way.restore(state)

    def _choose(
        self, model: nn.Module, tasks: Sequence[str], layers: Sequence[Layer], method: Method, measured: Measured
    ) -> Way:
        rule, rules = self._rules.first, self._rules
        by_losses = {"gram", "gradients"}.isdisjoint(rule.needs)
        if by_losses and (method.groups or method.per == "layer" or method.layers != ["*"]):
            raise ReconError(
                f"the rule {quoted(rule.NAME)} looks at losses alone, which are the same for all layers",
                "leave out `per`, `groups` and `layers`, or take a rule that looks at gradients (`recon methods`)",
            )
        if isinstance(rule, GradientRule) and method.layers != ["*"]:
            raise ReconError(
                f"the rule {quoted(rule.NAME)} makes each entry's update from the gradients of this entry alone",
                "leave out `layers`, or take a rule whose weights follow from the Gram matrix (`recon methods`)",
            )
        if method.feature is not None and ("gram" not in rule.needs or isinstance(rule, PenaltyRule)):
            raise ReconError(
                f"the rule {quoted(rule.NAME)} has no form on the gradients of a feature",
                "leave out `feature`, or take a rule whose weights follow from the Gram matrix (`recon methods`)",
            )
        sharded = self._is_sharded
        if sharded and (isinstance(rule, (PenaltyRule, RotoGrad)) or method.feature is not None):
            form = "" if method.feature is None else " on the gradients of a feature"
            raise ReconError(
                f"the rule {quoted(rule.NAME)}{form} cannot train a network that is sharded over several devices",
                "leave out `train.sharded`, or take a rule that looks at losses or at gradients of parameters",
            )
        if by_losses:
            return ByLosses(model, rules, measured, averaged=self._averaged, sharded=sharded)
        if isinstance(rule, PenaltyRule):
            return ByPenalty(model, rules, self._shared, measured)
        if isinstance(rule, GradientRule):
            return ByGradients(model, layers, rules, self._shared, measured, sharded=sharded)
        if isinstance(rule, RotoGrad):
            network = _rotated(model, tasks, method)
            turning = Turning(network, tasks, rule.parameters.learning_rate)
            return ByRotation(network, layers, rules, self._shared, measured, turning)
        if method.feature is not None:
            return ByFeature(model, layers, rules, self._shared, measured, method.feature)
        return ByGram(model, layers, rules, self._shared, measured, sharded=sharded)


def _rotated(model: nn.Module, tasks: Sequence[str], method: Method) -> RotatedModel:
    """The network, whose rotations are those that the method is to turn."""
    rule = quoted(method.name)
    if method.feature is None:
        raise ReconError(
            f"the rule {rule} rotates a feature that all tasks share, and none is named",
            f"name the module that returns it where the method is set: `{{name: {method.name}, feature: trunk.pool}}`",
        )
    if not isinstance(model, RotatedModel):
        raise ReconError(
            f"the network has no rotations for the rule {rule} to turn",
            f'train `recon_cli.rotated(model, tasks, "{method.feature}")` in its place',
        )
    if model.rotated_feature != method.feature or set(model.task_names) != set(tasks):
        raise ReconError(
            f"the network is rotated behind {quoted(model.rotated_feature)} for {listed(model.task_names)}, but the "
            f"rule {rule} is to turn {quoted(method.feature)} for {listed(tasks)}"
        )
    return model
