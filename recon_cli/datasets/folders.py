"""Folders of data sets: which files they hold, listed once; and which splits there are."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from recon_cli.errors import ReconError, listed, quoted


def file_names(folder: Path) -> frozenset[str]:
    """The names of all that lies in a folder.

    :raises ReconError: if there is no such folder, or it cannot be listed.
    """
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise ReconError(f"there is no folder {quoted(folder)}", "give the data set's own folder as `root`") from None
    except OSError as error:
        raise ReconError(f"cannot list {quoted(folder)}: {error.strerror}") from None


def text_lines(path: Path) -> list[str]:
    """The lines of a text file, without blanks around them.

    :raises ReconError: naming the file, if it is missing or no text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise ReconError(f"{quoted(path)} is damaged: it is no text") from None
    except OSError as error:
        raise ReconError(f"cannot read {quoted(path)}: {error.strerror}") from None


def check_split(data: str, split: str, known: Collection[str]) -> None:
    """Refuse a split that a data set does not have.

    :param data: its name, as messages say it.
    :raises ReconError: naming those that there are.
    """
    if split not in known:
        raise ReconError(f"{data} has no split {quoted(split)}", f"there are {listed(known)}")
