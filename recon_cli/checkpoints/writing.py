"""The forms in which a checkpoint is written: one safetensors file, several with an index, or a torch file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from recon_cli.checkpoints.safetensors_writer import (
    Digests,
    Metadata,
    Places,
    SafetensorsLayout,
    placed,
    unknown_digests,
    write_safetensors,
)
from recon_cli.checkpoints.sharded_safetensors import Shards
from recon_cli.checkpoints.tensors import CheckpointSource

Carried = Callable[[Digests], str]
"""Makes the text that a checkpoint carries from the digests of the source's tensors, which do not change its length."""


class CheckpointWriter(ABC):
    """A checkpoint that is to be written, laid out before a byte is.

    :ivar paths: the files, in the order in which they are to appear.
    """

    paths: Sequence[Path]

    @abstractmethod
    def bytes(self) -> int:
        """The size of all files together."""

    @abstractmethod
    def write(self, descriptors: Sequence[int]) -> Digests:
        """Write all files.

        :param descriptors: the empty files, in the order of `paths`.
        :returns: the digest of every tensor of the source.
        """


class SafetensorsWriter(CheckpointWriter):
    """One safetensors file, which carries the text in its metadata."""

    def __init__(self, path: Path, source: CheckpointSource, places: Places, key: str, carried: Carried) -> None:
        self.paths = (path,)
        self._source = source
        self._places = places
        self._metadata: Metadata = lambda digests: {"format": "pt", **source.metadata, key: carried(digests)}

    def bytes(self) -> int:
        """The size of the file."""
        layout = SafetensorsLayout(placed(self._source.tensors, self._places))
        return len(layout.header(self._metadata(unknown_digests(self._source)))) + layout.bytes

    def write(self, descriptors: Sequence[int]) -> Digests:
        """Write the file."""
        return write_safetensors(descriptors[0], self._source, self._places, self._metadata)


class ShardedWriter(CheckpointWriter):
    """Several safetensors files and their index, which carries the text."""

    def __init__(
        self, path: Path, source: CheckpointSource, places: Places, key: str, carried: Carried, *, limit: int
    ) -> None:
        self._shards = Shards(path, source, places, limit)
        self.paths = self._shards.paths
        self._own = {"format": "pt", **source.metadata}
        self._unknown = unknown_digests(source)
        self._metadata: Metadata = lambda digests: {key: carried(digests)}

    def bytes(self) -> int:
        """The size of all files."""
        return sum(self._shards.sizes(self._own)) + len(self._shards.index(self._metadata(self._unknown)))

    def write(self, descriptors: Sequence[int]) -> Digests:
        """Write the files."""
        return self._shards.write(descriptors, self._own, self._metadata)
