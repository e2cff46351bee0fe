"""The update rules of all groups of layers, which are one rule, each with what it has learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from recon_cli.artifacts.method import Method
from recon_cli.errors import ReconError, quoted
from recon_cli.rules.registry import find_rule, make_rule
from recon_cli.rules.rule import Need, Rule, WeightRule, check_known
from recon_cli.updating.step import Step

AnyRule = TypeVar("AnyRule", bound=Rule[Any])


class RuleGroups(Generic[AnyRule]):
    """One rule for each group of layers.

    :param method: which rule it is.
    :param tasks: the names of the tasks, T of them.
    :param names: what the groups are called in notes, G of them.
    :param seed: of rules that draw random numbers; each group draws its own.
    :ivar notes: what the rules had to say, and in how many steps.
    :raises ReconError: if there is no such rule, or it cannot be set so.
    """

    def __init__(self, method: Method, tasks: Sequence[str], names: Sequence[str | None], seed: int) -> None:
        # Before they stand beside the other arguments, which they may be named like.
        check_known(method.name, find_rule(method.name).PARAMETERS, method.parameters)
        self._method = method
        self._names = names
        seeds = [seed, *((seed + group) % (1 << 64) for group in range(1, len(names)))]
        self.rules: list[AnyRule] = [
            make_rule(
                method.name,
                tasks,
                scale=method.scale,
                seed=own,
                **method.parameters,
            )  # type: ignore[misc]  # the caller knows which kind the name stands for
            for own in seeds
        ]
        self.notes: Counter[str] = Counter()

    @property
    def first(self) -> AnyRule:
        """The rule of the first group, which says what all of them are."""
        return self.rules[0]

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the rules need."""
        return self.first.needs

    def joint_weights(self, step: Step) -> torch.Tensor:
        """The weights of joint training, [T]."""
        return self.first.joint_weights(step.present)

    def weights(
        self: RuleGroups[WeightRule[Any]], grams: torch.Tensor, step: Step, groups: Iterable[int]
    ) -> GroupWeights:
        """The weights of all groups.

        :param grams: what each rule sees, float64 on the CPU, [G, P, P].
        :param groups: the groups that have a shared layer; the others have nothing to weigh.
        """
        joint = self.joint_weights(step)
        shared, heads = joint.repeat(len(self.rules), 1), []
        for group in sorted(groups):
            found = self.rules[group].weights(step.observation(grams[group]))
            if found.note is not None:
                name = self._names[group]
                self.notes[found.note if name is None else f"{found.note} ({name})"] += 1
            shared[group] = found.shared
            heads.append(found.heads)
        return GroupWeights(shared, torch.stack(heads).mean(0) if heads else joint)

    def after_step(self, losses: torch.Tensor) -> None:
        """Learn from the losses of the same batch after the step, [T]."""
        for rule in self.rules:
            rule.after_step(losses)

    def after_epoch(self) -> None:
        """Learn from an epoch."""
        for rule in self.rules:
            rule.after_epoch()

    def state(self) -> dict[str, Any]:
        """What the rules have learned; plain data and tensors."""
        return {
            "method": self._method.model_dump(mode="json"),
            "rules": [rule.state_dict() for rule in self.rules],
            "notes": dict(self.notes),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the rules of the same method were.

        :raises ReconError: if it was another method, or were other tasks.
        """
        if state["method"] != self._method.model_dump(mode="json"):
            raise ReconError(
                f"the saved state is one of the method {quoted(state['method']['name'])} as it was set there, not of "
                f"{quoted(self._method.name)} as it is set here"
            )
        for rule, saved in zip(self.rules, state["rules"], strict=True):
            rule.load_state_dict(saved)
        self.notes = Counter(state["notes"])


@dataclass(frozen=True)
class GroupWeights:
    """What a step makes of the gradients, in float64 on the CPU.

    :ivar shared: [G, T], for the shared layers of each group.
    :ivar heads: [T], for all else: the mean over the groups.
    """

    shared: torch.Tensor
    heads: torch.Tensor
