"""What a branching of a chain costs, in operations where the data flow is known, else in parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.branching.plan import split_per_task
from recon_cli.branching.streams import count_flops
from recon_cli.search.chain import Chain


@dataclass(frozen=True)
class Resources:
    """What one copy of each module of a chain costs.

    :ivar unit: what is counted; operations are those of a forward pass on one batch.
    :ivar modules: by the place of the module.
    """

    unit: Literal["operations", "parameters"]
    modules: tuple[int, ...]

    @classmethod
    def of(cls, chain: Chain, tasks: Sequence[str], flow: Dataflow | None) -> Resources:
        """Those of a chain.

        :param flow: the network's; None if it is not known.
        """
        found = () if flow is None else _operations(chain, tasks, flow)
        if any(found):
            return cls("operations", found)
        return cls("parameters", tuple(module.size for module in chain.modules))

    @property
    def shared(self) -> int:
        """What the chain costs if all tasks share all of it."""
        return sum(self.modules)

    def total(self, copies: torch.Tensor) -> torch.Tensor:
        """What a branching costs.

        :param copies: how many there are of each module, [M]; may be expected numbers.
        """
        return copies @ copies.new_tensor(self.modules)

    def loss(self, copies: torch.Tensor, tasks: int) -> torch.Tensor:
        """The part of what can be shared that is not: 0 if tasks share all modules, 1 if they share none.

        :param copies: the expected number of copies of each module, [M].
        """
        # A chain without parameters costs nothing, whoever shares it.
        return (self.total(copies) - self.shared) / (max(1, self.shared) * (tasks - 1))


def _operations(chain: Chain, tasks: Sequence[str], flow: Dataflow) -> tuple[int, ...]:
    """The operations of each module: by the rule of branching, what lies behind a module is split with it."""
    shared = count_flops(flow, ())
    behind = []
    for module in chain.modules:
        layers = [split_per_task(layer.name, layer.aliases, tasks) for layer in module.layers]
        behind.append((count_flops(flow, layers) - shared) // (len(tasks) - 1))
    return tuple(own - later for own, later in zip(behind, [*behind[1:], 0], strict=True))
