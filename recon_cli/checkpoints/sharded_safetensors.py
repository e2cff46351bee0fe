"""Writing a checkpoint as several safetensors files and the index that says which tensor is in which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.publish import reserve, write_all
from recon_cli.checkpoints.safetensors_writer import (
    Digests,
    Metadata,
    Places,
    SafetensorsLayout,
    copy_tensors,
    placed,
)
from recon_cli.checkpoints.sharded_source import INDEX_SUFFIX
from recon_cli.checkpoints.streaming import Advance, FilePlace, Place
from recon_cli.checkpoints.tensors import CheckpointSource, StoredTensor


class Shards:
    """A checkpoint divided into files of at most a given size, in the order of its tensors.

    A tensor that is larger than that has a file of its own.

    :param path: what a single file would be called; `x.safetensors` becomes `x-00001-of-00003.safetensors` and so on,
        with `x.safetensors.index.json`.
    :param limit: the bytes of tensors in one file.
    :ivar paths: the files, the index last.
    """

    def __init__(self, path: Path, source: CheckpointSource, places: Places, limit: int) -> None:
        self._source = source
        self._places = places
        self._groups = _groups(placed(source.tensors, places), limit)
        self._layouts = [SafetensorsLayout(group) for group in self._groups]
        count = len(self._groups)
        names = [f"{path.stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        self.paths = [*(path.with_name(name) for name in names), path.with_name(f"{path.name}{INDEX_SUFFIX}")]

    def sizes(self, metadata: Mapping[str, str]) -> list[int]:
        """The bytes of the files of tensors."""
        return [len(layout.header(metadata)) + layout.bytes for layout in self._layouts]

    def write(
        self,
        descriptors: Sequence[int],
        shard_metadata: Mapping[str, str],
        index_metadata: Metadata,
        advance: Advance | None = None,
    ) -> Digests:
        """Write all files.

        :param descriptors: the empty files, in the order of `paths`.
        :param shard_metadata: what each file of tensors carries besides them.
        :param index_metadata: what the index carries, from the digests.
        :returns: the digest of every tensor of the source.
        """
        goals: dict[str, Place] = {}
        for descriptor, layout in zip(descriptors[:-1], self._layouts, strict=True):
            header = layout.header(shard_metadata)
            reserve(descriptor, len(header) + layout.bytes)
            write_all(descriptor, header, 0)
            goals.update({name: FilePlace(descriptor, len(header) + at) for name, at in layout.offsets.items()})
        digests = copy_tensors(self._source, goals, self._places, advance)
        write_all(descriptors[-1], self.index(index_metadata(digests)), 0)
        return digests

    def index(self, metadata: Mapping[str, str]) -> bytes:
        """The content of the index."""
        weight_map = {
            name: path.name for path, group in zip(self.paths[:-1], self._groups, strict=True) for name, _ in group
        }
        content = {
            "metadata": {**metadata, "total_size": sum(layout.bytes for layout in self._layouts)},
            "weight_map": weight_map,
        }
        return strict_json.encode(content, indent=2)


def _groups(named: Sequence[tuple[str, StoredTensor]], limit: int) -> list[list[tuple[str, StoredTensor]]]:
    groups: list[list[tuple[str, StoredTensor]]] = [[]]
    filled = 0
    for name, tensor in named:
        if groups[-1] and filled + tensor.bytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append((name, tensor))
        filled += tensor.bytes
    return groups
