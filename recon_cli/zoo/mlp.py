"""Fully connected networks with a shared trunk and one linear layer per task.

They can be compiled to TorchScript, traced and exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Two shared layers with ReLU, dropout, and a linear head with one output for each task.

    :param features: number of inputs.
    :param width: units of each shared layer.
    :param dropout: the share of the second layer's units that are dropped in training.
    :param tasks: the tasks' names.
    """

    def __init__(self, features: int, width: int, dropout: float, tasks: Sequence[str]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, width)
        self.fc2 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({task: nn.Linear(width, 1) for task in tasks})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map [N, features] to logits, task -> [N]."""
        x = self.dropout(F.relu(self.fc2(F.relu(self.fc1(x)))))
        return {task: head(x).squeeze(1) for task, head in self.heads.items()}


def census_mlp(features: int = 486, width: int = 192, dropout: float = 0.3) -> MLP:
    """The network that GradOPS uses on Census-Income: two shared layers, 130,560 shared parameters.

    The paper has one dropout layer and does not say where; here it is before the heads.
    """
    return MLP(features, width, dropout, ("income", "marital", "education"))
