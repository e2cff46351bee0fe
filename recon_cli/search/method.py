"""What a method of searching is: it says what is learned, and makes of that one path for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.search import SearchStage
from recon_cli.search.candidates import Candidates, Path
from recon_cli.search.chain import Chain
from recon_cli.search.learning import Learning, Material

Learn = Callable[[Candidates, Sequence[int]], SearchStage]
"""Makes a stage of a search: from candidates, and the places of the shared modules that conflicts are looked for in."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    :ivar paths: of every task, in the order of the tasks; those with one owner of a module share its copy.
    """

    paths: Mapping[str, Path]
    stages: tuple[SearchStage, ...]


class Searching(Protocol):
    """What a method works with.

    :ivar tasks: the names of the tasks, in order.
    :ivar flow: the network's data flow, if it is known.
    """

    chain: Chain
    tasks: tuple[str, ...]
    material: Material
    flow: Dataflow | None

    @property
    def steps(self) -> int:
        """The steps of a stage.

        :raises ReconError: if that is not known.
        """

    def learn(self, stage: Learning) -> SearchStage:
        """Make a stage; its supernet is learned when it returns."""


@dataclass(frozen=True)
class SearchMethod:
    """A method of searching.

    :ivar search: searches.
    :ivar validates: whether it learns on validation data.
    :ivar samples: whether it draws, as `search.sampling` says.
    """

    search: Callable[[Searching], Found]
    validates: bool
    samples: bool


def task_owner(task: str) -> str:
    """The owner of a task's purely-specific modules."""
    return f"task {task}"
