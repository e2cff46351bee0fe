"""What a method of searching is: it says which paths are candidates, and makes of what is learned one for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from recon_cli.artifacts.search import SearchStage
from recon_cli.search.candidates import Candidates, Path
from recon_cli.search.chain import Chain

Learn = Callable[[Candidates, Sequence[int]], SearchStage]
"""Makes a stage of a search: from candidates, and the places of the shared modules that conflicts are looked for in."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    :ivar paths: of every task, in the order of the tasks; those with one owner of a module share its copy.
    """

    paths: Mapping[str, Path]
    stages: tuple[SearchStage, ...]


class SearchMethod(Protocol):
    """A method of searching."""

    def __call__(self, chain: Chain, tasks: Sequence[str], learn: Learn) -> Found:
        """Search.

        :param tasks: the names of the tasks, in order.
        :param learn: makes a stage; the candidates are learned when it returns.
        """


def task_owner(task: str) -> str:
    """The owner of a task's purely-specific modules."""
    return f"task {task}"
