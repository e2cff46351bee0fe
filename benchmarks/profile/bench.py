"""One case set up: what all ways to do a step of it have in common."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.profile.cases import Case
from benchmarks.profile.networks import MultiTask
from recon_cli.layers.discovery import discover_layers


class Bench:
    """A network, a batch, and an optimizer that leaves the weights as they are."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.tasks = case.tasks
        self._place(case.network().to(device), case.batch().to(device))
        self.labels = torch.randint(10, (case.tasks, *case.labels)).to(device)

    def _place(self, model: MultiTask, x: torch.Tensor) -> None:
        self.model = model
        self.x = x
        self.layers = [layer for layer in discover_layers(model) if not layer.name.startswith("heads.")]
        self.shared: list[nn.Parameter] = [p for layer in self.layers for p in layer.parameters.values()]
        self.private = list(model.heads.parameters())
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.x.device

    def features(self) -> torch.Tensor:
        """The trunk's output."""
        features: torch.Tensor = self.model.trunk(self.x)
        return features

    def losses_of(self, features: torch.Tensor) -> list[torch.Tensor]:
        """The loss of every task on the trunk's output."""
        return [F.cross_entropy(head(features), own) for head, own in zip(self.model.heads, self.labels, strict=True)]

    def losses(self) -> list[torch.Tensor]:
        """The loss of every task."""
        return [F.cross_entropy(output, own) for output, own in zip(self.model(self.x), self.labels, strict=True)]

    def clone(self, dtype: torch.dtype = torch.float32) -> Bench:
        """The same with a network of its own, which no hook on this one reaches, in another precision if wanted."""
        other = copy.copy(self)
        x = self.x.to(dtype) if self.x.is_floating_point() else self.x
        other._place(copy.deepcopy(self.model).to(dtype), x)
        return other
