"""The network of a search: every task's candidate paths along the chain, mixed by what is learned of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recon_cli.search.chain import Chain
from recon_cli.search.graph import bound

Path = tuple[str, ...]
"""Whose copy of each module of the chain is run: `SHARED`, or the name of an owner."""

SHARED = "shared"
"""The owner of the modules that all tasks share: the network's own."""


def own_path(owner: str, point: int, length: int) -> Path:
    """The path that leaves the shared modules for an owner's copies.

    :param point: the branch point p, from 1: the module before which it leaves; `length` + 1 if it does not.
    :param length: of the chain.
    """
    return (SHARED,) * (point - 1) + (owner,) * (length - point + 1)


def branch_point(path: Path) -> int:
    """The branch point of a path, from 1: the first module that is not the shared one; one more than all if none is."""
    return next((place for place, owner in enumerate(path, start=1) if owner != SHARED), len(path) + 1)


def partition(paths: Mapping[str, Path], place: int) -> tuple[tuple[str, ...], ...]:
    """The tasks that share each copy of a module, in the order of the tasks.

    :param place: the module's, counted from 0.
    """
    groups: dict[str, list[str]] = {}
    for task, path in paths.items():
        groups.setdefault(path[place], []).append(task)
    return tuple(tuple(group) for group in groups.values())


class Candidates(nn.Module):
    """The candidate paths of all tasks; equal beginnings of paths run once.

    Task t's encoder output is sum_p softmax(alpha_t)_p z_(t,p), where z_(t,p) is what comes out of its path p; its head
    makes the task's output of that. alpha begins at zero, and requires a gradient only inside of `learning_alpha`, so
    that an optimizer of all trainable parameters does not take it.

    :param paths: of each task, one or more of one length; the copies that they name and `copies` lacks are made, equal
        to the shared modules.
    :param copies: of modules, by place and owner, from an earlier stage.
    """

    def __init__(
        self,
        chain: Chain,
        paths: Mapping[str, Sequence[Path]],
        copies: Mapping[tuple[int, str], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.paths = {task: tuple(of_task) for task, of_task in paths.items()}
        self._signature = chain.signature
        self.before = chain.before
        self.heads = nn.ModuleList(chain.heads[task] for task in paths)
        # By a number, as owners may be called anything.
        self.copies = nn.ModuleList()
        self._numbers: dict[tuple[int, str], int] = {}
        for place, owner in sorted(
            {step for of_task in paths.values() for path in of_task for step in enumerate(path)}
        ):
            self._numbers[place, owner] = len(self.copies)
            given = (copies or {}).get((place, owner))
            shared = chain.modules[place].part
            self.copies.append(given or (shared if owner == SHARED else copy.deepcopy(shared)))
        some = next(chain.before.parameters(), next(self.parameters()))
        self.alphas = nn.ParameterList(
            nn.Parameter(torch.zeros(len(of_task), device=some.device), requires_grad=False)
            for of_task in self.paths.values()
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
        features: dict[Path, Any] = {(): self.before(None, *inputs)}
        outputs = {}
        for number, (task, paths) in enumerate(self.paths.items()):
            ends = [self._run(path, features, inputs) for path in paths]
            outputs[task] = self.heads[number](self._mixed(number, ends), *inputs)
        return outputs

    def probabilities(self) -> dict[str, list[float]]:
        """For each task that has a choice, softmax(alpha)."""
        return {
            task: alpha.detach().double().softmax(0).tolist()
            for (task, paths), alpha in zip(self.paths.items(), self.alphas, strict=True)
            if len(paths) > 1
        }

    def chosen(self) -> dict[str, Path]:
        """For each task the path with the highest alpha; of equal ones that which shares most."""
        return {
            task: max(zip(alpha.tolist(), paths, strict=True), key=lambda each: (each[0], branch_point(each[1])))[1]
            for (task, paths), alpha in zip(self.paths.items(), self.alphas, strict=True)
        }

    @contextmanager
    def learning_alpha(self) -> Iterator[list[nn.Parameter]]:
        """Take all weights as fixed in the block; gives alpha of the tasks that have a choice."""
        weights = [parameter for parameter in self.parameters() if parameter.requires_grad]
        alphas = [alpha for alpha in self.alphas if len(alpha) > 1]
        for parameter in weights:
            parameter.requires_grad_(False)
        for alpha in alphas:
            alpha.requires_grad_(True)
        try:
            yield alphas
        finally:
            for alpha in alphas:
                alpha.requires_grad_(False)
            for parameter in weights:
                parameter.requires_grad_(True)

    def _run(self, path: Path, features: dict[Path, Any], inputs: Sequence[Any]) -> Any:
        for end in range(1, len(path) + 1):
            if path[:end] not in features:
                module = self.copy_of(end - 1, path[end - 1])
                features[path[:end]] = module(features[path[: end - 1]], *inputs)
        return features[path]

    def _mixed(self, number: int, ends: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(ends) == 1:
            return ends[0]
        weights = self.alphas[number].softmax(0)
        mixed: torch.Tensor = weights[0] * ends[0]
        for weight, end in zip(weights[1:], ends[1:], strict=True):
            mixed = mixed + weight * end
        return mixed
