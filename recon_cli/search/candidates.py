"""The network of a search: every task's candidate paths along the chain, mixed by what is learned of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from recon_cli.search.chain import Chain
from recon_cli.search.supernet import SHARED, Supernet, mixed

Path = tuple[str, ...]
"""Whose copy of each module of the chain is run: `SHARED`, or the name of an owner."""


def own_path(owner: str, point: int, length: int) -> Path:
    """The path that leaves the shared modules for an owner's copies.

    :param point: the branch point p, from 1: the module before which it leaves; `length` + 1 if it does not.
    :param length: of the chain.
    """
    return (SHARED,) * (point - 1) + (owner,) * (length - point + 1)


def branch_point(path: Path) -> int:
    """The branch point of a path, from 1: the first module that is not the shared one, else one more than all."""
    return next((place for place, owner in enumerate(path, start=1) if owner != SHARED), len(path) + 1)


def partition(paths: Mapping[str, Path], place: int) -> tuple[tuple[str, ...], ...]:
    """The tasks that share each copy of a module, in the order of the tasks.

    :param place: the module's, counted from 0.
    """
    groups: dict[str, list[str]] = {}
    for task, path in paths.items():
        groups.setdefault(path[place], []).append(task)
    return tuple(tuple(group) for group in groups.values())


class Candidates(Supernet):
    """The candidate paths of all tasks; equal beginnings of paths run once.

    Task t's encoder output is sum_p softmax(alpha_t)_p z_(t,p), where z_(t,p) is what comes out of its path p; its head
    makes the task's output of that.

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
        steps = sorted({step for of_task in paths.values() for path in of_task for step in enumerate(path)})
        super().__init__(chain, paths, steps, ((len(of_task),) for of_task in paths.values()), copies)
        self.paths = {task: tuple(of_task) for task, of_task in paths.items()}

    @property
    def choosing(self) -> Sequence[int]:
        """The places of the tasks that have several paths."""
        return [place for place, task in enumerate(self.tasks) if len(self.paths[task]) > 1]

    def encoded(self, feature: Any, inputs: Sequence[Any]) -> Iterator[Any]:
        """What comes out of the chain for each task."""
        features: dict[Path, Any] = {(): feature}
        for number, paths in enumerate(self.paths.values()):
            ends = [self._run(path, features, inputs) for path in paths]
            yield self._mixed(number, ends)

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

    def _run(self, path: Path, features: dict[Path, Any], inputs: Sequence[Any]) -> Any:
        for end in range(1, len(path) + 1):
            if path[:end] not in features:
                module = self.copy_of(end - 1, path[end - 1])
                features[path[:end]] = module(features[path[: end - 1]], *inputs)
        return features[path]

    def _mixed(self, number: int, ends: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(ends) == 1:
            return ends[0]
        return mixed(self.alphas[number].softmax(0), ends)
