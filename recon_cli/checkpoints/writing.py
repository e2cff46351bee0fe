"""The forms in which tensors are written: one safetensors file, several with an index, or a torch file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon_cli.checkpoints.pickles.nodes import Call, Global
from recon_cli.checkpoints.safetensors_writer import (
    Digests,
    Places,
    SafetensorsLayout,
    placed,
    unknown_digests,
    write_safetensors,
)
from recon_cli.checkpoints.sharded_safetensors import Shards
from recon_cli.checkpoints.streaming import Advance
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.torch_files.writer import TensorStorages, TorchFile, TreeStorages
from recon_cli.errors import ReconError, quoted

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
"""The endings of names that ask for a torch file."""


@dataclass(frozen=True)
class Carried:
    """A text that a checkpoint carries besides its tensors.

    :ivar key: what it is called.
    :ivar text: makes it from the digests of the source's tensors, which do not change its length.
    """

    key: str
    text: Callable[[Digests], str]

    def metadata(self, digests: Digests) -> dict[str, str]:
        """The text by its name."""
        return {self.key: self.text(digests)}


NOTHING = Carried("", lambda _: "")
"""No text."""


class CheckpointWriter(ABC):
    """A checkpoint that is to be written, laid out before a byte is.

    :ivar paths: the files, in the order in which they are to appear.
    """

    paths: Sequence[Path]

    @abstractmethod
    def bytes(self) -> int:
        """The size of all files together."""

    @abstractmethod
    def write(self, descriptors: Sequence[int], advance: Advance | None = None) -> Digests:
        """Write all files.

        :param descriptors: the empty files, in the order of `paths`.
        :param advance: told what has been written.
        :returns: the digest of every tensor of the source.
        """


def is_torch_output(path: Path, shard_size: int | None) -> bool:
    """Whether a name asks for a torch file.

    :raises ReconError: if that is to be divided.
    """
    as_torch = path.suffix.lower() in TORCH_SUFFIXES
    if as_torch and shard_size is not None:
        raise ReconError(
            f"--shard-size divides safetensors, but {quoted(path)} is named like a torch file",
            f"name it {quoted(path.with_suffix('.safetensors'))}, or leave --shard-size out",
        )
    return as_torch


def flat_writer(
    path: Path, source: CheckpointSource, places: Places, *, carried: Carried = NOTHING, shard_size: int | None = None
) -> CheckpointWriter:
    """What writes tensors in the form that a file's name asks for.

    :param path: the file; with an ending of `TORCH_SUFFIXES` it is a torch file, else safetensors.
    :param places: for every tensor of the source, the names under which it is written.
    :param shard_size: the bytes of tensors in one file, if there are to be several.
    :raises ReconError: if a torch file is to be divided.
    """
    if is_torch_output(path, shard_size):
        return TorchWriter.of_tensors(path, source, places, carried)
    if shard_size is not None and sum(tensor.bytes for _, tensor in placed(source.tensors, places)) > shard_size:
        return ShardedWriter(path, source, places, carried, shard_size)
    return SafetensorsWriter(path, source, places, carried)


class SafetensorsWriter(CheckpointWriter):
    """One safetensors file, which carries the text in its metadata."""

    def __init__(self, path: Path, source: CheckpointSource, places: Places, carried: Carried) -> None:
        self.paths = (path,)
        self._source = source
        self._places = places
        self._carried = carried

    def bytes(self) -> int:
        """The size of the file."""
        layout = SafetensorsLayout(placed(self._source.tensors, self._places))
        return len(layout.header(self._metadata(unknown_digests(self._source)))) + layout.bytes

    def write(self, descriptors: Sequence[int], advance: Advance | None = None) -> Digests:
        """Write the file."""
        return write_safetensors(descriptors[0], self._source, self._places, self._metadata, advance)

    def _metadata(self, digests: Digests) -> dict[str, str]:
        own = self._carried.metadata(digests) if self._carried is not NOTHING else {}
        return {"format": "pt", **self._source.metadata, **own}


class ShardedWriter(CheckpointWriter):
    """Several safetensors files and their index, which carries the text."""

    def __init__(self, path: Path, source: CheckpointSource, places: Places, carried: Carried, limit: int) -> None:
        self._shards = Shards(path, source, places, limit)
        self.paths = self._shards.paths
        self._source = source
        self._carried = carried

    def bytes(self) -> int:
        """The size of all files."""
        index = self._shards.index(self._metadata(unknown_digests(self._source)))
        return sum(self._shards.sizes(self._own)) + len(index)

    def write(self, descriptors: Sequence[int], advance: Advance | None = None) -> Digests:
        """Write the files."""
        return self._shards.write(descriptors, self._own, self._metadata, advance)

    @property
    def _own(self) -> dict[str, str]:
        return {"format": "pt", **self._source.metadata}

    def _metadata(self, digests: Digests) -> dict[str, str]:
        return self._carried.metadata(digests) if self._carried is not NOTHING else {}


class TorchWriter(CheckpointWriter):
    """A torch file, which carries the text as a member of its archive.

    :param root: what it holds.
    :param storages: the storages that it names.
    """

    def __init__(
        self, path: Path, source: CheckpointSource, root: object, storages: TreeStorages, carried: Carried
    ) -> None:
        self.paths = (path,)
        self._source = source
        self._text = None if carried is NOTHING else lambda digests: carried.text(digests).encode()
        self._file = TorchFile(root, storages, None if self._text is None else self._text(unknown_digests(source)))

    @classmethod
    def of_tensors(cls, path: Path, source: CheckpointSource, places: Places, carried: Carried) -> TorchWriter:
        """The writer of a flat state dict; what is tied in the source is tied in it under names of the same rank."""
        storages = TensorStorages()
        root = Call(Global("collections", "OrderedDict"))
        for tensor in source.tensors:
            first = source.ties.get(tensor.key, tensor.key)
            root.update((name, storages.node(tensor, (first, at))) for at, name in enumerate(places[tensor.key]))
        return cls(path, source, root, storages, carried)

    def bytes(self) -> int:
        """The size of the file."""
        return self._file.bytes

    def write(self, descriptors: Sequence[int], advance: Advance | None = None) -> Digests:
        """Write the file."""
        return self._file.write(descriptors[0], self._source, self._text, advance)
