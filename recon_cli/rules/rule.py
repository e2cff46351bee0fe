"""What an update rule is: it says what it needs, and gives each task a weight, or one gradient for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import ValidationError

from recon_cli.artifacts.document import Record, first_problem
from recon_cli.errors import ReconError, counted, did_you_mean, listed, quoted
from recon_cli.rules.grams import Active, active_tasks, check_finite

Scale = Literal["mean", "published"]
"""`mean`: where all tasks have the same gradient g, the update is g, as with the mean of the losses; `published`: as
the paper has it."""

Kind = Literal["manipulation", "balancing", "regularisation"]
"""A manipulation weighs the gradients of what is shared, and leaves each head its own loss's gradient; balancing weighs
the losses, those of heads as well; regularisation adds a penalty to them."""

Need = Literal["losses", "gram", "gradients", "rotations", "second derivatives", "new losses", "epochs"]
"""`losses`: their values; `gram`: the inner products of the tasks' gradients; `gradients`: these themselves;
`rotations`: a rotation of the feature for each task, that the gradients turn; `second derivatives`: the gradients' own
gradient; `new losses`: the losses of the same batch after the step, given to `after_step`; `epochs`: a call of
`after_epoch` at the end of each."""


class NoParameters(Record):
    """A rule without parameters."""


AnyParameters = TypeVar("AnyParameters", bound=Record)


@dataclass(frozen=True)
class Observation:
    """What a rule may see of one step.

    Rules compute in float64 on the CPU, whatever these are in, and do not differentiate.

    :ivar losses: [T]; anything for a task without a loss in this step.
    :ivar gram: [T, T], summed in float64: the inner products of the tasks' gradients of what is shared; None where no
        rule that sees it needs it.
    :ivar present: the places of the tasks that have a loss in this step; None: all.
    """

    losses: torch.Tensor
    gram: torch.Tensor | None = None
    present: tuple[int, ...] | None = None

    @property
    def places(self) -> tuple[int, ...]:
        """The places of the tasks that have a loss in this step."""
        return tuple(range(len(self.losses))) if self.present is None else self.present


@dataclass(frozen=True)
class Weights:
    """What a step makes of the losses' gradients; zero for a task that has no loss in it.

    :ivar shared: [T] in float64, for what is shared.
    :ivar heads: [T] in float64, for what one task alone has: under a manipulation the weights of joint training.
    :ivar note: what the user has to be told about this step, if anything.
    """

    shared: torch.Tensor
    heads: torch.Tensor
    note: str | None = None


class Rule(ABC, Generic[AnyParameters]):
    """An update rule for one group of shared parameters: a whole trunk, a group of layers, or a layer.

    :param tasks: the tasks' names, in order.
    :param scale: the size of the update.
    :param seed: of the rule's own generator, from which a random rule draws; the user's generators are left alone.
    :param parameters: what the rule takes; its defaults are the paper's, or said to be others.
    :raises ReconError: if a parameter is not known or out of bounds.
    """

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    PAPER: ClassVar[str]
    KIND: ClassVar[Kind]
    NEEDS: ClassVar[tuple[Need, ...]]
    PARAMETERS: ClassVar[type[Record]] = NoParameters
    PUBLISHED: ClassVar[str] = "the weights add up to 1"
    """The size of the update as published."""
    EXCEPTION: ClassVar[str | None] = None
    """Where the rule depends on the size of all gradients or losses, or on the tasks' order."""
    LEARNED: ClassVar[tuple[str, ...]] = ()
    """The attributes that change from step to step, all tensors."""

    def __init__(self, tasks: Sequence[str], *, scale: Scale = "mean", seed: int = 0, **parameters: Any) -> None:
        self.tasks = tuple(tasks)
        self.scale = scale
        self.parameters: AnyParameters = _validated(self.NAME, self.PARAMETERS, parameters)  # type: ignore[assignment]
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the rule needs, with these parameters."""
        return self.NEEDS

    def joint_weights(self, places: Sequence[int]) -> torch.Tensor:
        """The weights of joint training, [T]: of the mean of the losses, or as published of their sum.

        :param places: of the tasks that have a loss in the step.
        """
        weight = 1.0 if self.scale == "published" else 1 / max(len(places), 1)
        present = set(places)
        return torch.tensor([weight * (task in present) for task in range(len(self.tasks))], dtype=torch.float64)

    def after_step(self, losses: torch.Tensor) -> None:
        """Learn from the losses of the same batch after the step, [T]; only for rules that need `new losses`.

        The forward pass that computes them is to leave running statistics and random states as they are.
        """

    def after_epoch(self) -> None:
        """Learn from an epoch; only for rules that need `epochs`."""

    def state_dict(self) -> dict[str, Any]:
        """What the rule has learned so far, to go on from; plain data and tensors."""
        learned = {name: getattr(self, name).clone() for name in self.LEARNED}
        return {"rule": self.NAME, "tasks": list(self.tasks), "generator": self.generator.get_state(), **learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same rule for the same tasks.

        :raises ReconError: if the state is of another rule, or of other tasks.
        """
        if state.get("rule") != self.NAME or set(state) != set(self.state_dict()):
            raise ReconError(
                f"the state is not one of the rule {quoted(self.NAME)}, but of {quoted(state.get('rule'))}"
            )
        if tuple(state["tasks"]) != self.tasks:
            raise ReconError(
                f"the state is of the tasks {listed(state['tasks'])}, but the rule of {listed(self.tasks)}"
            )
        self.generator.set_state(state["generator"])
        for name in self.LEARNED:
            setattr(self, name, state[name].clone())

    def _spread(self, places: Sequence[int], values: torch.Tensor) -> torch.Tensor:
        """Values of some tasks among zeros of the others."""
        found = torch.zeros(len(self.tasks), dtype=torch.float64)
        found[list(places)] = values.double()
        return found

    def _gram(self, seen: Observation) -> torch.Tensor:
        """The Gram matrix, for a rule that cannot do without."""
        if seen.gram is None:
            raise ReconError(
                f"the rule {quoted(self.NAME)} needs the Gram matrix of the tasks' gradients, and none was given"
            )
        number = len(self.tasks)
        if seen.gram.shape != (number, number):
            raise ReconError(
                f"the Gram matrix has the shape {tuple(seen.gram.shape)}; for {counted(number, 'task')} it is "
                f"{(number, number)}"
            )
        return plain(seen.gram)

    def _names(self, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.tasks[place] for place in places)


class WeightRule(Rule[AnyParameters]):
    """A rule that gives each task a weight."""

    @abstractmethod
    def weights(self, seen: Observation) -> Weights:
        """The weights of this step; a rule that learns from every step has then learned from this one.

        :raises ReconError: naming the tasks, if a gradient or a loss that it needs is NaN or infinite, or one that it
            cannot work with.
        """


class GramRule(WeightRule[AnyParameters]):
    """A manipulation that needs nothing but the inner products of the tasks' gradients.

    Tasks without a gradient take no part: the others get what the rule gives them alone, and these the joint weight,
    which changes nothing.
    """

    KIND = "manipulation"
    NEEDS: ClassVar[tuple[Need, ...]] = ("gram",)
    SUMS: ClassVar[bool] = False
    """Whether, as published, the update for T equal gradients g is T g instead of g."""

    def weights(self, seen: Observation) -> Weights:
        """The weights of this step."""
        losses, gram = plain(seen.losses), self._gram(seen)
        check_finite(gram.diagonal()[list(seen.places)], self._names(seen.places), "gradient")
        if "losses" in self.needs:
            check_finite(losses[list(seen.places)], self._names(seen.places), "loss")
        heads = self.joint_weights(seen.places)
        shared = heads.clone()
        active = active_tasks(gram, losses, seen.places)
        note = None
        if active.places:
            found = self.active_weights(active)
            if self.scale == "mean":
                found = found * (1 if self.SUMS else len(active.places)) / len(seen.places)
            shared[list(active.places)] = found
            if not bool(found.any()):
                note = f"{self.TITLE} leaves nothing of the gradients of {listed(self._names(active.places))}"
        return Weights(shared, heads, note)

    @abstractmethod
    def active_weights(self, active: Active) -> torch.Tensor:
        """The weights of the tasks that have a gradient, [A]; on the scale `mean` as well, they are as `SUMS` says."""


@dataclass(frozen=True)
class Present:
    """The tasks that have a loss in this step.

    :ivar places: their places among all tasks.
    :ivar losses: [P] in float64, finite.
    :ivar norms: [P], the norms of their gradients, finite; None for a rule that does not need the Gram matrix.
    """

    places: tuple[int, ...]
    losses: torch.Tensor
    norms: torch.Tensor | None


class LossRule(WeightRule[AnyParameters]):
    """Balancing: weights above zero for the losses, those of heads as well.

    On the scale `mean` they add up to one.
    """

    KIND = "balancing"
    NEEDS: ClassVar[tuple[Need, ...]] = ("losses",)
    NEGATIVE: ClassVar[bool] = True
    """Whether losses may be below zero."""

    def weights(self, seen: Observation) -> Weights:
        """The weights of this step."""
        if not seen.places:
            return Weights(self.joint_weights(seen.places), self.joint_weights(seen.places))
        found = self.present_weights(self._present(seen))
        if self.scale == "mean":
            found = found / found.sum()
        weights = self._spread(seen.places, found)
        return Weights(weights, weights)

    @abstractmethod
    def present_weights(self, present: Present) -> torch.Tensor:
        """The weights of the tasks that have a loss, [P], above zero, as published."""

    def _present(self, seen: Observation) -> Present:
        names = self._names(seen.places)
        losses = plain(seen.losses)[list(seen.places)]
        check_finite(losses, names, "loss")
        if not self.NEGATIVE:
            check_above(losses, 0, names, self.NAME)
        norms = None
        if "gram" in self.needs:
            squares = self._gram(seen).diagonal()[list(seen.places)]
            check_finite(squares, names, "gradient")
            norms = squares.clamp(min=0).sqrt()
        return Present(seen.places, losses, norms)


class GradientRule(Rule[AnyParameters]):
    """A manipulation that works on the gradients themselves, parameter by parameter; heads get `joint_weights`."""

    KIND = "manipulation"
    NEEDS = ("gradients",)

    def combined(self, rows: torch.Tensor, seen: Observation, places: Sequence[int] | None = None) -> torch.Tensor:
        """The update of some parameters.

        :param rows: [R, n], the gradients of them that tasks have.
        :param places: the places of these tasks; None: all T.
        :returns: [n].
        :raises ReconError: if a gradient is NaN or infinite, naming the task.
        """
        # A sum with a NaN or an infinity in it is one of them.
        sums = rows.sum(1, dtype=torch.promote_types(rows.dtype, torch.float32))
        check_finite(sums, self.tasks if places is None else self._names(places), "gradient")
        found = self.combined_sum(rows)
        return found / max(len(seen.places), 1) if self.scale == "mean" else found

    @abstractmethod
    def combined_sum(self, rows: torch.Tensor) -> torch.Tensor:
        """The update, [n], as large as the sum of the gradients."""


class PenaltyRule(Rule[AnyParameters]):
    """A penalty on the tasks' gradients of what is shared, added to the losses: sum_i w_i L_i + P(g_1, ..., g_T), where
    w are `joint_weights`."""

    KIND = "regularisation"
    NEEDS = ("gram", "second derivatives")

    def slopes(self, seen: Observation) -> torch.Tensor:
        """How the penalty changes with the gradients.

        :returns: M, [T, T] in float64: dP / dg_i = sum_j M_ij g_j.
        :raises ReconError: if a gradient is NaN or infinite, naming the task.
        """
        gram = self._gram(seen)
        check_finite(gram.diagonal()[list(seen.places)], self._names(seen.places), "gradient")
        found = torch.zeros_like(gram)
        active = active_tasks(gram, plain(seen.losses), seen.places)
        if len(active.places) > 1:
            at = torch.tensor(active.places)
            found[at.unsqueeze(1), at] = self.active_slopes(active) / active.size / active.size
        return found

    @abstractmethod
    def active_slopes(self, active: Active) -> torch.Tensor:
        """M of the tasks that have a gradient, [A, A], for gradients divided by `active.size`."""


def plain(values: torch.Tensor) -> torch.Tensor:
    """Values in float64 on the CPU, which nothing is differentiated through."""
    return values.detach().cpu().double()


def check_above(losses: torch.Tensor, least: float, tasks: Sequence[str], name: str, *, strictly: bool = False) -> None:
    """Refuse losses that a rule cannot work with.

    :raises ReconError: naming the tasks.
    """
    wrong = [t for t, loss in zip(tasks, losses.tolist(), strict=True) if loss < least or (strictly and loss == least)]
    if wrong:
        needed = f"above {least:g}" if strictly else f"not below {least:g}"
        raise ReconError(
            f"the loss of {listed(wrong)} is not one that the rule {quoted(name)} can work with: it has to be {needed}",
            "add a constant to the loss, which changes no gradient, or take another rule",
        )


def check_known(name: str, kind: type[Record], parameters: Iterable[str]) -> None:
    """Refuse parameters that a rule does not have.

    :param kind: its parameters.
    :raises ReconError: naming them.
    """
    known = list(kind.model_fields)
    unknown = [parameter for parameter in parameters if parameter not in known]
    if unknown:
        raise ReconError(
            f"the rule {quoted(name)} has no {'parameters' if len(unknown) > 1 else 'parameter'} {listed(unknown)}",
            did_you_mean(unknown[0], known)
            or (f"its {counted(len(known), 'parameter')}: {listed(known)}" if known else "it has none"),
        )


def _validated(name: str, kind: type[Record], parameters: Mapping[str, Any]) -> Record:
    check_known(name, kind, parameters)
    try:
        return kind(**parameters)
    except ValidationError as error:
        raise ReconError(f"the rule {quoted(name)} cannot be set so: {first_problem(error)}") from None
