"""A chain of modules whose tasks agree up to one module, and pull in opposite directions from it on."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 2
MODULES = 3


class Block(nn.Module):
    """A linear layer on one part of the features, which begins as the identity."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(x.split(WIDTH, dim=1))
        parts[self.place] = self.linear(parts[self.place])
        return torch.cat(parts, dim=1)


class Planted(nn.Module):
    def __init__(self, tasks: tuple[str, ...], modules: int = MODULES) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(Block(place) for place in range(modules)))
        self.heads = nn.ModuleDict({task: nn.Identity() for task in tasks})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.trunk(x)
        return {task: head(x) for task, head in self.heads.items()}


def network(tasks: str = "ab") -> nn.Module:
    return Planted(tuple(tasks))


def targets(x: torch.Tensor, agree: int, sign: float) -> torch.Tensor:
    """What a task wants of the features: modules from `agree` on changed in the direction of its sign."""
    change = torch.tensor([[0.5, -0.3], [0.2, 0.4]])
    parts = [
        part + (1.0 if place < agree else sign) * part @ change for place, part in enumerate(x.split(WIDTH, dim=1))
    ]
    return torch.cat(parts, dim=1)


def batches(agree: int, seed: int = 0, tasks: str = "ab", number: int = 8) -> list[object]:
    """Batches in which every second task has the other sign."""
    x = torch.randn(number, 16, WIDTH * MODULES, generator=torch.Generator().manual_seed(seed))
    return [(each, {task: targets(each, agree, (-1.0) ** place) for place, task in enumerate(tasks)}) for each in x]


def config(agree: int, tasks: str = "ab", **parts: object) -> dict[str, object]:
    return {
        "model": {"target": "tests.search.planted:network", "kwargs": {"tasks": tasks}},
        "tasks": [{"name": task, "loss": "mse_loss", "label": task} for task in tasks],
        "data": {"target": "tests.search.planted:batches", "kwargs": {"agree": agree, "tasks": tasks}},
        "validation": {"target": "tests.search.planted:batches", "kwargs": {"agree": agree, "tasks": tasks, "seed": 1}},
        "optimizer": {"target": "SGD", "kwargs": {"lr": 0.2}},
        "search": {"iterations": 30, "alpha_lr": 0.02},
        **parts,
    }
