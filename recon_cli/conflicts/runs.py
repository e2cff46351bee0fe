"""Runs that are compared: their scores, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recon_cli.artifacts.run_files import run_files
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
    return run_files(paths, _SCORES)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the scores of the runs, each called by its path.

    :param paths: as :func:`scores_files` takes them.
    :raises ReconError: if one of them holds no scores.
    """
    return [Run(str(path), Scores.read(file)) for path, file in zip(paths, scores_files(paths), strict=True)]
