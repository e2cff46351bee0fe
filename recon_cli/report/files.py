"""The documents of Recon that a report is made of: which lie in a folder, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.run_files import same_file
from recon_cli.artifacts.training import Results
from recon_cli.errors import ReconError, quoted

_SCORES = "scores.json"
_OF_A_FOLDER = (_SCORES, "ranking.json", "report.json")
_MANIFEST = ".manifest.json"
_BY_CONFLICTS = "recon"
"""What `recon run` calls the split of the layers with most conflicts; the others are controls."""
_SINGLE_TASK = "single-task"
_PARTS_OF_NAMES = 2
"""So many of the last parts of a path call a file, unless that would call another one too."""


@dataclass(frozen=True)
class Source:
    """A document that is read.

    :ivar name: what it is called on the page.
    :ivar is_profile: whether these are the scores that a ranking and the splits beside them were made from.
    :ivar more_seeds: of how many further seeds such a document lies beside it, which is not read.
    """

    path: Path
    name: str
    is_profile: bool = False
    more_seeds: int = 0


def sources_of(paths: Sequence[Path]) -> list[Source]:
    """The documents that paths name, each once, with names that tell them apart.

    :param paths: files, once `-` for standard input, and folders that `recon run` or `recon train` wrote to.
    :raises ReconError: if a folder holds none.
    """
    if paths.count(STANDARD_STREAM) > 1:
        raise ReconError("standard input can be read only once, but `-` is given twice")
    found: list[Source] = []
    for path in paths:
        for source in _sources_in(path) if path.is_dir() else [Source(path, _name_of(path))]:
            if not any(same_file(source.path, other.path) for other in found):
                found.append(source)
    return _told_apart(found)


def _sources_in(folder: Path) -> list[Source]:
    manifests = {path.name.removesuffix(_MANIFEST): path for path in folder.glob(f"splits/*{_MANIFEST}")}
    splits = sorted(manifests, key=lambda split: (split != _BY_CONFLICTS, split))
    networks = _networks_in(folder, [split for split in splits if split != _BY_CONFLICTS])
    name = folder.absolute().name
    found = [
        Source(folder / file, "profile" if networks else name, is_profile=bool(networks) and file == _SCORES)
        for file in _OF_A_FOLDER
        if (folder / file).is_file()
    ]
    found += [Source(manifests[split], split) for split in splits]
    for network in [folder, *networks]:
        found += _results_in(network)
    if not found:
        raise ReconError(
            f"the folder {quoted(folder)} holds no document that a report could be made of",
            "name a folder of `recon run` or `recon train`, or the files themselves",
        )
    return found


def _networks_in(folder: Path, controls: Sequence[str]) -> list[Path]:
    """The folders of trained networks: for each rule as it is and split; then the controls; single-task ones last."""

    def place(network: Path) -> tuple[bool, bool, str]:
        is_control = any(network.name.endswith(f"-{control}") for control in controls)
        return network.name == _SINGLE_TASK, is_control, network.name

    return sorted((path.parent for path in folder.glob(f"*/{Results.FILE}")), key=place)


def _results_in(folder: Path) -> list[Source]:
    """The results of a training, and the conflicts that were measured on the way from its first seed."""
    name = folder.absolute().name
    measured = sorted(folder.glob(f"seed-*/{_SCORES}"), key=lambda path: _number_of(path.parent.name))
    results = folder / Results.FILE
    found = [Source(results, name)] if results.is_file() else []
    return [*found, *(Source(path, name, more_seeds=len(measured) - 1) for path in measured[:1])]


def _number_of(name: str) -> int:
    digits = re.search(r"[0-9]+", name)
    return int(digits[0]) if digits else 0


def _name_of(path: Path) -> str:
    if path == STANDARD_STREAM:
        return "standard input"
    parts = path.absolute().parts
    if path.name in (*_OF_A_FOLDER, Results.FILE):
        parts = parts[:-1]
    else:
        parts = (*parts[:-1], path.name.removesuffix(_MANIFEST).removesuffix(".json"))
    return "/".join(parts[-_PARTS_OF_NAMES:] if path.name == _SCORES else parts[-1:])


def _told_apart(sources: Iterable[Source]) -> list[Source]:
    """The same, with paths for names where two documents of one kind of file would be called alike."""
    sources = list(sources)
    kinds = [(source.path.name, source.name) for source in sources]
    return [
        source if kinds.count(kind) == 1 else replace(source, name=str(source.path))
        for source, kind in zip(sources, kinds, strict=True)
    ]
