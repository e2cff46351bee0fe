"""Gradients of tasks, from the ordinary to the degenerate, and what a rule makes of them."""

from __future__ import annotations

from typing import Any

import torch

from recon_cli.rules.registry import RULES, make_rule
from recon_cli.rules.rule import GradientRule, Observation, PenaltyRule, Rule, WeightRule

RANDOM = ("rlw", "pcgrad", "gradvac", "graddrop", "rgw")
"""Rules whose update depends on their generator, and so on the order of the tasks."""

MANIPULATIONS = [name for name, rule in RULES.items() if rule.KIND == "manipulation"]
BALANCING = [name for name, rule in RULES.items() if rule.KIND == "balancing"]
NEED_LOSSES = BALANCING


def _drawn(tasks: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _rows(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


GRADIENTS: dict[str, torch.Tensor] = {
    "one task": _drawn(1, 5),
    "two tasks": _drawn(2, 5, 1),
    "three tasks": _drawn(3, 20, 2),
    "nine tasks": _drawn(9, 50, 3),
    "forty tasks": _drawn(40, 100, 4),
    "conflicting": _drawn(3, 20, 5) + 2 * _rows([1], [-1], [0.5]) * _drawn(1, 20, 6),
    "parallel": _rows([1], [2], [0.5]) * _drawn(1, 6, 7),
    "opposite": _rows([1, 2, 0], [-1, -2, 0]),
    "opposite, one longer": _rows([1, 2, 0], [-3, -6, 0]),
    "orthogonal": _rows([1, 0, 0], [0, 2, 0], [0, 0, 3]),
    "one task without a gradient": torch.cat([_drawn(2, 6, 8), torch.zeros(1, 6, dtype=torch.float64)]),
    "a single task with a gradient": torch.cat([_drawn(1, 6, 9), torch.zeros(2, 6, dtype=torch.float64)]),
    "no gradient": torch.zeros(3, 4, dtype=torch.float64),
    "more tasks than parameters": _drawn(6, 2, 10),
    "nine tasks in a plane": _drawn(9, 2, 11) @ _drawn(2, 30, 12),
    "forty tasks of rank five": _drawn(40, 5, 13) @ _drawn(5, 60, 14),
    "stationary": _rows([1, 0, 1], [0, 1, -1], [-1, -1, 0]),
    "two opposite, one across": _rows([0, 1], [0, -1], [2, 0]),
    "seven of whole numbers in space": _rows(
        [1, 2, 1], [1, -1, 1], [-3, 1, -2], [-1, -3, 1], [-3, 3, 3], [-1, 1, -1], [-2, 3, 0]
    ),
    "nearly opposite": _rows([1, 0], [-1, 1e-6]),
    "nearly parallel": _rows([1, 0, 0], [1, 1e-5, 0], [1, 0, 1e-5]),
    "parallel up to rounding in float32": _rows([1], [0.5], [2]) * (_drawn(1, 50, 15) + 1e-7 * _drawn(3, 50, 19)),
    "tiny": 1e-12 * _drawn(3, 20, 16),
    "huge": 1e12 * _drawn(3, 20, 17),
    "of sizes far apart": _rows([1e-12], [1], [1e12]) * _drawn(3, 20, 18),
    "of sizes far apart, conflicting": _rows([1e-12, 0, 0], [-1, 1, 0], [-1e12, 1e12, 1e12]),
}


def losses_of(gradients: torch.Tensor) -> torch.Tensor:
    """Losses for as many tasks."""
    return torch.linspace(0.5, 2, len(gradients), dtype=torch.float64)


def names_of(gradients: torch.Tensor) -> list[str]:
    """Names for as many tasks."""
    return [f"task{place}" for place in range(len(gradients))]


def rule_for(name: str, gradients: torch.Tensor, **settings: Any) -> Rule[Any]:
    """A rule for as many tasks."""
    return make_rule(name, names_of(gradients), **settings)


def seen(
    gradients: torch.Tensor, losses: torch.Tensor | None = None, present: tuple[int, ...] | None = None
) -> Observation:
    """What rules see of gradients."""
    return Observation(losses_of(gradients) if losses is None else losses, gradients @ gradients.T, present)


def update_of(rule: Rule[Any], gradients: torch.Tensor, **what: Any) -> torch.Tensor:
    """The update of what is shared."""
    observation = seen(gradients, **what)
    if isinstance(rule, GradientRule):
        return rule.combined(gradients, observation)
    if isinstance(rule, PenaltyRule):
        # As if the gradient of each task's gradient were the unit matrix.
        return (rule.joint_weights(observation.places) + rule.slopes(observation).sum(0)) @ gradients
    assert isinstance(rule, WeightRule)
    return rule.weights(observation).shared @ gradients


def longest(gradients: torch.Tensor) -> float:
    """The largest norm."""
    return float(gradients.norm(dim=1).max())
