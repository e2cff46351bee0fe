"""Runs that are compared: their scores, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM, name_of
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError

_SCORES = "scores.json"


@dataclass(frozen=True)
class Run:
    """A training run that was measured."""

    name: str
    scores: Scores


def scores_files(paths: Sequence[Path]) -> list[Path]:
    """The scores file of each run.

    :param paths: scores files, folders that hold a `scores.json`, or once `-`, standard input.
    :raises ReconError: if there are fewer than two, or one is named twice.
    """
    if len(paths) < 2:
        raise ReconError("one run is given, but a comparison needs two or more")
    if paths.count(STANDARD_STREAM) > 1:
        raise ReconError("standard input can be read only once, but `-` is given twice")
    files = [path / _SCORES if path != STANDARD_STREAM and path.is_dir() else path for path in paths]
    known = [path for path in files if path != STANDARD_STREAM and path.exists()]
    for one, other in combinations(known, 2):
        if one.samefile(other):
            raise ReconError(f"{name_of(one)} and {name_of(other)} are one run", "name each run once")
    return files


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the scores of the runs, each called by its path.

    :param paths: as :func:`scores_files` takes them.
    :raises ReconError: if one of them holds no scores.
    """
    return [Run(str(path), Scores.read(file)) for path, file in zip(paths, scores_files(paths), strict=True)]
