"""The files of several runs that a command compares."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM, name_of
from recon_cli.errors import ReconError, quoted


def run_files(paths: Sequence[Path], name: str) -> list[Path]:
    """The file of each run.

    :param paths: files, folders that hold one of this name, or once `-`, standard input.
    :param name: what the file is called in a run's folder.
    :raises ReconError: if a run is named twice, or a folder holds no such file but folders that do.
    """
    if paths.count(STANDARD_STREAM) > 1:
        raise ReconError("standard input can be read only once, but `-` is given twice")
    files = [_file_of(path, name) for path in paths]
    for one, other in combinations(files, 2):
        if same_file(one, other):
            raise ReconError(f"{name_of(one)} and {name_of(other)} are one run", "name each run once")
    return files


def _file_of(path: Path, name: str) -> Path:
    if path == STANDARD_STREAM or not path.is_dir():
        return path
    file = path / name
    below = sorted(path.glob(f"*/{name}"))
    if below and not file.exists():
        raise ReconError(f"there is no file {quoted(file)}", f"name one of its folders, as {quoted(below[0].parent)}")
    return file


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one file that exists; standard input is none."""
    if STANDARD_STREAM in (one, other) or not (one.exists() and other.exists()):
        return False
    return one.samefile(other)
