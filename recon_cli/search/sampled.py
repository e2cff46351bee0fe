"""Supernets in which the ways through the copies are drawn by a Gumbel-softmax, by task (BMTAS) or by parent (LTB)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from recon_cli.search.chain import Chain
from recon_cli.search.gumbel import gumbel_noise, relaxed
from recon_cli.search.sharing import (
    copies_by_parent,
    copies_by_task,
    together_by_parent,
    together_by_task,
    ways_by_parent,
    ways_by_task,
)
from recon_cli.search.supernet import SHARED, Supernet, mixed


class Sampled(Supernet):
    """Of every module of the chain there are as many copies as tasks; the ways through them are drawn in each forward.

    alpha has for each module a table, [T, T], whose rows are softmaxed to the probabilities of its copies.

    :ivar names: of the modules.
    :ivar temperature: of the Gumbel-softmax; None while nothing is drawn and every task has copies of its own.
    """

    most_tasks: int
    """With more of them the expected numbers of copies take too long."""
    hard: bool
    """Whether draws are one-hot."""

    def __init__(self, chain: Chain, tasks: Sequence[str]) -> None:
        number = len(tasks)
        steps = [(place, _owner(copy)) for place in range(len(chain.modules)) for copy in range(number)]
        super().__init__(chain, tasks, steps, [(number, number)] * len(chain.modules))
        self.names = chain.names
        self.temperature: float | None = None

    @property
    def can_expect(self) -> bool:
        """Whether the expected numbers of copies can be computed."""
        return len(self.tasks) <= self.most_tasks

    def tables(self) -> list[torch.Tensor]:
        """softmax(alpha) of each module, [T, T], in float64."""
        return [alpha.double().softmax(-1) for alpha in self.alphas]

    @abstractmethod
    def expected_copies(self) -> torch.Tensor:
        """The expected number of copies of each module that some task uses, [M]."""

    @abstractmethod
    def together(self) -> torch.Tensor:
        """The probabilities that two tasks share a module, [M, T, T]."""

    @abstractmethod
    def ways(self) -> list[tuple[int, ...]]:
        """For every task its copies of all modules, counted from 0, if the most probable ones are taken."""

    @abstractmethod
    def readers(self, place: int) -> tuple[str, ...]:
        """The names of what the rows of a module's table stand for."""

    def _draw(self) -> list[torch.Tensor]:
        """A table of weights for each module, [T, T]."""
        logits = torch.stack([*self.alphas])
        if self.temperature is None:
            return [*torch.eye(len(self.tasks), device=logits.device).expand_as(logits)]
        return [*relaxed(logits, gumbel_noise(logits.shape), self.temperature, hard=self.hard)]

    def _run(self, place: int, number: int, feature: Any, inputs: Sequence[Any]) -> Any:
        return self.copy_of(place, _owner(number))(feature, *inputs)


class SampledByTask(Sampled):
    """Every task draws a copy of each module; soft draws mix what the copies give."""

    most_tasks = 16
    hard = False

    def encoded(self, feature: Any, inputs: Sequence[Any]) -> list[Any]:
        """What comes out of the chain for each task."""
        streams = [feature] * len(self.tasks)
        for place, weights in enumerate(self._draw()):
            # All tasks have one stream before the first module.
            known: dict[tuple[int, int], Any] = {}
            following = []
            for stream, own in zip(streams, weights, strict=True):
                wanted = _wanted(own)
                for number in wanted:
                    if (id(stream), number) not in known:
                        known[id(stream), number] = self._run(place, number, stream, inputs)
                following.append(mixed(own[wanted], [known[id(stream), number] for number in wanted]))
            streams = following
        return streams

    def expected_copies(self) -> torch.Tensor:
        """The expected number of copies of each module that some task uses, [M]."""
        return copies_by_task(self.tables())

    def together(self) -> torch.Tensor:
        """The probabilities that two tasks share a module, [M, T, T]."""
        return together_by_task(self.tables())

    def ways(self) -> list[tuple[int, ...]]:
        """For every task its most probable copies."""
        return ways_by_task(self.tables())

    def readers(self, place: int) -> tuple[str, ...]:  # noqa: ARG002  (the same for every module)
        """The tasks."""
        return self.tasks


class SampledByParent(Sampled):
    """Every copy draws one before it, whose result it reads, and every task one of the last; draws are one-hot."""

    most_tasks = 10
    hard = True

    def encoded(self, feature: Any, inputs: Sequence[Any]) -> list[Any]:
        """What comes out of the chain for each task."""
        read = [feature] * len(self.tasks)
        for place, weights in enumerate(self._draw()):
            results = [self._run(place, number, each, inputs) for number, each in enumerate(read)]
            read = [mixed(own, results) for own in weights]
        return read

    def expected_copies(self) -> torch.Tensor:
        """The expected number of copies of each module that some task uses, [M]."""
        return copies_by_parent(self.tables())

    def together(self) -> torch.Tensor:
        """The probabilities that two tasks share a module, [M, T, T]."""
        return together_by_parent(self.tables())

    def ways(self) -> list[tuple[int, ...]]:
        """For every task the copies on its way, by the most probable parents."""
        return ways_by_parent(self.tables())

    def readers(self, place: int) -> tuple[str, ...]:
        """The copies of the next module; the tasks, for the last one."""
        last = place == len(self.names) - 1
        return self.tasks if last else tuple(f"copy {number}" for number in range(1, len(self.tasks) + 1))


def _owner(number: int) -> str:
    return f"copy {number}" if number else SHARED


def _wanted(weights: torch.Tensor) -> list[int]:
    """The places of the weights that matter: all, if they are learned."""
    if weights.requires_grad:
        return list(range(len(weights)))
    return [place for place, weight in enumerate(weights.tolist()) if weight]
