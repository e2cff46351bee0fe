"""Reading a checkpoint of several files by the index that says which tensor is in which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recon_cli.artifacts.document import read_json
from recon_cli.artifacts.formats import CheckpointFormat
from recon_cli.checkpoints.containment import path_beside
from recon_cli.checkpoints.tensors import CheckpointSource, Entry
from recon_cli.errors import ReconError, counted, listed, quoted

INDEX_SUFFIX = ".index.json"


class ShardedSource(CheckpointSource):
    """The files of an index, as one checkpoint.

    :param index: the index, as `save_pretrained` of Hugging Face writes it.
    :param open_shard: opens one of its files.
    :raises ReconError: if the index is no index, names files outside its folder, or disagrees with what is in them.
    """

    def __init__(self, index: Path, open_shard: Callable[[Path], CheckpointSource]) -> None:
        weight_map, own_metadata = read_index(index)
        self._shards: dict[str, CheckpointSource] = {}
        try:
            for name in dict.fromkeys(weight_map.values()):
                self._shards[name] = open_shard(shard_path(index, name))
            _check_content(index, weight_map, self._shards)
        except BaseException:
            self.close()
            raise
        shards = self._shards.values()
        self.paths = (index, *(index.parent / name for name in self._shards))
        self.tensors = tuple(tensor for shard in shards for tensor in shard.tensors)
        self.ties: Mapping[str, str] = {key: first for shard in shards for key, first in shard.ties.items()}
        self.metadata: Mapping[str, str] = {**_in_all(list(shards)), **own_metadata}

    @property
    def FORMAT(self) -> CheckpointFormat:  # type: ignore[override]  # noqa: N802
        """The format of its files."""
        return next(iter(self._shards.values())).FORMAT

    @property
    def form(self) -> str:
        """What such files are called, in words."""
        first = next(iter(self._shards.values()))
        return f"{first.form}, in {counted(len(self._shards), 'file')}"

    @property
    def entries(self) -> Sequence[Entry]:
        """What lies beside the weights, file by file."""
        shards = self._shards.items()
        return [replace(entry, path=f"{name}: {entry.path}") for name, shard in shards for entry in shard.entries]

    def check_unchanged(self) -> None:
        """Refuse files that were modified since they were opened."""
        for shard in self._shards.values():
            shard.check_unchanged()

    def close(self) -> None:
        """Let go of all files."""
        for shard in self._shards.values():
            shard.close()


def is_index(path: Path) -> bool:
    """Whether a file's name says that it is an index."""
    return path.name.endswith(INDEX_SUFFIX)


def read_index(index: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Which tensor is in which file, and the text that the index carries besides.

    :raises ReconError: if it is no index.
    """
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ReconError(f"{quoted(index)} is no index of shards: it has no `weight_map` from names to files")
    if not weight_map:
        raise ReconError(f"the index {quoted(index)} names no tensors")
    folded: dict[str, str] = {}
    for name in weight_map.values():
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise ReconError(
                f"the index {quoted(index)} names files that differ by case alone: {listed([other, name])}"
            )
    metadata: Any = content.get("metadata")
    texts = metadata.items() if isinstance(metadata, dict) else ()
    return weight_map, {key: value for key, value in texts if isinstance(value, str)}


def shard_path(index: Path, name: str) -> Path:
    """Where a file of an index is.

    :raises ReconError: if it is, or links to, a place outside the index's folder.
    """
    return path_beside(index, name, f"the index {quoted(index)}")


def _check_content(index: Path, weight_map: Mapping[str, str], shards: Mapping[str, CheckpointSource]) -> None:
    found: dict[str, str] = {}
    for name, shard in shards.items():
        for tensor in shard.tensors:
            if tensor.key in found:
                raise ReconError(
                    f"the tensor {quoted(tensor.key)} is in two shards of {quoted(index)}: "
                    f"{listed([found[tensor.key], name])}"
                )
            found[tensor.key] = name
    missing = [key for key, name in weight_map.items() if found.get(key) != name]
    if missing:
        raise ReconError(f"the index {quoted(index)} names tensors that its files lack: {listed(missing)}")
    extra = [key for key in found if key not in weight_map]
    if extra:
        raise ReconError(f"the shards of {quoted(index)} hold tensors that it does not name: {listed(extra)}")


def _in_all(shards: list[CheckpointSource]) -> dict[str, str]:
    """The metadata in which all shards agree."""
    first, *others = (shard.metadata for shard in shards)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
