"""The network of a search: copies of the modules of a chain, and what is learned of the ways through them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recon_cli.search.chain import Chain
from recon_cli.search.graph import bound

SHARED = "shared"
"""The owner of the modules that all tasks share: the network's own."""


class Supernet(nn.Module, ABC):
    """Copies of the modules of a chain, between what comes before it and the heads of the tasks.

    alpha, of which the ways through the copies depend, begins at zero. It is no parameter that an optimizer of all
    trainable parameters takes, as it requires a gradient only inside of `with_alpha`.

    :param steps: place and owner of every copy that is needed.
    :param alphas: the shapes of the parts of alpha.
    :param copies: of modules, by place and owner, that are there already; the others are made, equal to the network's.
    """

    def __init__(
        self,
        chain: Chain,
        tasks: Iterable[str],
        steps: Iterable[tuple[int, str]],
        alphas: Iterable[tuple[int, ...]],
        copies: Mapping[tuple[int, str], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self._signature = chain.signature
        self.before = chain.before
        self.heads = nn.ModuleList(chain.heads[task] for task in self.tasks)
        # By a number, as owners may be called anything.
        self.copies = nn.ModuleList()
        self._numbers: dict[tuple[int, str], int] = {}
        for place, owner in steps:
            self._numbers[place, owner] = len(self.copies)
            given = (copies or {}).get((place, owner))
            shared = chain.modules[place].part
            self.copies.append(given or (shared if owner == SHARED else copy.deepcopy(shared)))
        some = next(chain.before.parameters(), next(self.parameters()))
        self.alphas = nn.ParameterList(
            nn.Parameter(torch.zeros(shape, device=some.device), requires_grad=False) for shape in alphas
        )

    def copy_of(self, place: int, owner: str) -> nn.Module:
        """An owner's copy of a module."""
        return self.copies[self._numbers[place, owner]]

    def all_copies(self) -> dict[tuple[int, str], nn.Module]:
        """The copies of all modules, by place and owner."""
        return {step: self.copies[number] for step, number in self._numbers.items()}

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Call it as the network; gives the output of each task."""
        inputs = bound(self._signature, args, kwargs)
        ends = self.encoded(self.before(None, *inputs), inputs)
        return {task: head(end, *inputs) for task, head, end in zip(self.tasks, self.heads, ends, strict=True)}

    @abstractmethod
    def encoded(self, feature: Any, inputs: Sequence[Any]) -> Iterable[Any]:
        """What comes out of the chain for each task.

        :param feature: what comes before the chain.
        :param inputs: the network's.
        """

    @property
    def choosing(self) -> Sequence[int]:
        """The places of the tasks whose losses depend on alpha."""
        return range(len(self.tasks))

    @contextmanager
    def with_alpha(self) -> Iterator[list[nn.Parameter]]:
        """Let alpha require a gradient in the block; gives its parts that stand for a choice."""
        alphas = [alpha for alpha in self.alphas if alpha.shape[-1] > 1]
        for alpha in alphas:
            alpha.requires_grad_(True)
        try:
            yield alphas
        finally:
            for alpha in alphas:
                alpha.requires_grad_(False)

    @contextmanager
    def learning_alpha(self) -> Iterator[list[nn.Parameter]]:
        """The same, and take all weights as fixed in the block."""
        weights = [parameter for parameter in self.parameters() if parameter.requires_grad]
        for parameter in weights:
            parameter.requires_grad_(False)
        try:
            with self.with_alpha() as alphas:
                yield alphas
        finally:
            for parameter in weights:
                parameter.requires_grad_(True)


def mixed(weights: torch.Tensor, ends: Sequence[torch.Tensor]) -> torch.Tensor:
    """A weighted sum of tensors.

    :param weights: [N], a number for each.
    """
    total = weights[0] * ends[0]
    for weight, end in zip(weights[1:], ends[1:], strict=True):
        total = total + weight * end
    return total
