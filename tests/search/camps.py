"""A chain of three linear modules, and four tasks in two camps that want the opposite of the modules from one on."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 2
MODULES = 3
TASKS = "abcd"
CAMPS = (("a", "c"), ("b", "d"))


class Block(nn.Module):
    """A linear layer on one part of the features, which begins as the identity."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.begin, self.end = place * WIDTH, (place + 1) * WIDTH
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, : self.begin], self.linear(x[:, self.begin : self.end]), x[:, self.end :]], dim=1)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(Block(place) for place in range(MODULES)))
        self.heads = nn.ModuleDict({task: nn.Identity() for task in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.trunk(x)
        return {task: head(x) for task, head in self.heads.items()}


def batches(agree: int, seed: int = 0, number: int = 8) -> list[object]:
    """Batches of two camps.

    :param agree: the number of modules on which all tasks agree.
    """
    change = 2 * torch.tensor([[0.5, -0.3], [0.2, 0.4]])
    x = torch.randn(number, 16, WIDTH * MODULES, generator=torch.Generator().manual_seed(seed))

    def wanted(each: torch.Tensor, sign: float) -> torch.Tensor:
        parts = enumerate(each.split(WIDTH, dim=1))
        return torch.cat([part + (1.0 if place < agree else sign) * part @ change for place, part in parts], dim=1)

    signs = {task: 1.0 if task in CAMPS[0] else -1.0 for task in TASKS}
    return [(each, {task: wanted(each, sign) for task, sign in signs.items()}) for each in x]


def config(agree: int, search: dict[str, object], **parts: object) -> dict[str, object]:
    return {
        "model": {"target": "tests.search.camps:Network"},
        "tasks": [{"name": task, "loss": "mse_loss", "label": task} for task in TASKS],
        "data": {"target": "tests.search.camps:batches", "kwargs": {"agree": agree}},
        "validation": {"target": "tests.search.camps:batches", "kwargs": {"agree": agree, "seed": 1}},
        "optimizer": {"target": "SGD", "kwargs": {"lr": 0.2}},
        "search": search,
        **parts,
    }
