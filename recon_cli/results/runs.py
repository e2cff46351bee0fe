"""Results that are compared, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.run_files import run_files, same_file
from recon_cli.artifacts.training import Results
from recon_cli.errors import ReconError


@dataclass(frozen=True)
class Run:
    """A way of training, and what it came to."""

    name: str
    results: Results


@dataclass(frozen=True)
class RunFiles:
    """The results files that a command line names.

    :ivar single_task: which of them holds the single-task networks; None if none is named.
    """

    paths: Sequence[Path]
    single_task: int | None

    @classmethod
    def find(cls, paths: Sequence[Path], single_task: Path | None = None) -> RunFiles:
        """Find the file of each run.

        :param paths: results files, folders that hold a `results.json`, or once `-`, standard input.
        :param single_task: that of the single-task networks, which comes last if it is none of the others.
        :raises ReconError: if there are fewer than two runs, or one is named twice.
        """
        files = run_files(paths, Results.FILE)
        if single_task is None:
            place = None
        else:
            (baseline,) = run_files([single_task], Results.FILE)
            place = next((place for place, file in enumerate(files) if same_file(file, baseline)), len(files))
            if place == len(files):
                files = run_files([*files, baseline], Results.FILE)
        if len(files) < 2:
            raise ReconError("one run is given, but a comparison needs two or more")
        return cls(files, place)

    def read(self) -> tuple[list[Run], Run | None]:
        """The runs, and which of them are the single-task networks.

        :raises ReconError: if one of them holds no results.
        """
        names = run_names(self.paths)
        runs = [Run(name, Results.read(path)) for name, path in zip(names, self.paths, strict=True)]
        return runs, None if self.single_task is None else runs[self.single_task]


def run_names(files: Sequence[Path]) -> list[str]:
    """What runs are called: by their folders or files, and those that would have the same name by their paths."""
    names = [_name(file) for file in files]
    return [name if names.count(name) == 1 else str(file) for name, file in zip(names, files, strict=True)]


def _name(file: Path) -> str:
    if file == STANDARD_STREAM:
        return str(file)
    return file.absolute().parent.name if file.name == Results.FILE else file.stem
