"""A small network of three tasks, and what an update rule makes of its gradients, one task after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.rules.registry import RULES, make_rule
from recon_cli.rules.rule import GradientRule, Observation, PenaltyRule, Rule

TASKS = ("a", "b", "c")
RULES_FOR_ANY = [name for name, rule in RULES.items() if "rotations" not in rule.NEEDS]
"""All rules but those that need a network of their own kind."""


class Network(nn.Module):
    """A trunk, a layer of two tasks alone, and heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
        self.some = nn.Linear(5, 5)
        self.drop = nn.Dropout(0.3)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        z = self.body(F.relu(self.norm(self.conv(x))).mean((2, 3)))
        some = self.some(self.drop(z))
        return {task: head(z if task == "a" else some) for task, head in self.heads.items()}


SHARED = ("conv", "norm", "body.0", "some")


def make_network() -> Network:
    torch.manual_seed(3)
    return Network().double()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [8, 1, 5, 5] and labels [3, 8]."""
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(8, 1, 5, 5, generator=generator, dtype=torch.float64)
    return images, torch.randint(2, (3, 8), generator=generator)


def losses_of(network: nn.Module, step: int, absent: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The losses on the batch of a step; dropout draws from the step's own seed."""
    torch.manual_seed(100 + step)
    images, labels = batch(step)
    outputs = network(images)
    return {t: F.cross_entropy(outputs[t], labels[at]) for at, t in enumerate(TASKS) if t not in absent}


def rules_of(name: str, groups: Sequence[Sequence[str]], **settings) -> list[Rule]:
    """A rule for each group of layers."""
    return [make_rule(name, TASKS, seed=seed, **settings) for seed in range(len(groups))]


def expected_update(
    network: nn.Module,
    losses: Mapping[str, torch.Tensor],
    rules: Sequence[Rule],
    groups: Sequence[Sequence[str]] = (SHARED,),
    looked_at: Sequence[str] = SHARED,
) -> dict[str, torch.Tensor]:
    """`.grad` of every parameter, from one gradient of autograd after the other.

    :param groups: the layers that each rule is for.
    :param looked_at: the layers whose gradients the rules see.
    """
    parameters = dict(network.named_parameters())
    create = isinstance(rules[0], PenaltyRule)
    zero = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    rows = []
    for task in TASKS:
        found = [None] * len(parameters)
        if task in losses:
            found = torch.autograd.grad(
                losses[task], [*parameters.values()], retain_graph=True, allow_unused=True, create_graph=create
            )
        rows.append({n: zero[n] if g is None else g for n, g in zip(parameters, found, strict=True)})
    present = tuple(at for at, task in enumerate(TASKS) if task in losses)
    values = torch.tensor([float(losses[t].detach()) if t in losses else torch.nan for t in TASKS], dtype=torch.float64)
    joint = rules[0].joint_weights(present)
    expected, heads = {}, []
    penalty = torch.zeros((), dtype=torch.float64)
    for rule, group in zip(rules, groups, strict=True):
        names = [name for name in parameters if name.rpartition(".")[0] in group]
        seen = [name for name in names if name.rpartition(".")[0] in looked_at]
        flat = torch.stack([torch.cat([row[name].flatten() for name in seen]) for row in rows])
        gram = (flat @ flat.T).detach()
        observation = Observation(values, gram, present)
        if isinstance(rule, PenaltyRule):
            active = flat[flat.detach().any(1)]
            unit = active / active.norm(dim=1, keepdim=True)
            cosines = (unit @ unit.T)[tuple(torch.triu_indices(len(active), len(active), 1))]
            if len(active) > 1:
                penalty = penalty + rule.parameters.coefficient * cosines.square().mean()
            continue
        if isinstance(rule, GradientRule):
            for name in names:
                reaching = [at for at in present if rows[at][name] is not zero[name]]
                stacked = torch.stack([rows[at][name].flatten() for at in reaching])
                expected[name] = rule.combined(stacked, observation, reaching).view_as(parameters[name])
            heads.append(joint)
            continue
        weights = rule.weights(observation)
        heads.append(weights.heads)
        for name in names:
            expected[name] = sum(w * row[name] for w, row in zip(weights.shared, rows, strict=True))
    if create:
        total = sum(joint[TASKS.index(task)] * loss for task, loss in losses.items()) + penalty
        found = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
        return {n: zero[n] if g is None else g for n, g in zip(parameters, found, strict=True)}
    own = torch.stack(heads).mean(0)
    for name in parameters:
        if name not in expected:
            expected[name] = sum(w * row[name] for w, row in zip(own, rows, strict=True))
    return expected


def gradients_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """`.grad` of every parameter, zeros where there is none."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in network.named_parameters()
    }


def assert_same(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], tolerance: float = 1e-9
) -> None:
    """Equal up to rounding, which weights of nearly dependent gradients make more of."""
    size = max(float(value.detach().abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=tolerance, atol=tolerance * size, msg=name)
