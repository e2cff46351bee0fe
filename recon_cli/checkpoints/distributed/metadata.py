"""What the `.metadata` of a distributed checkpoint says; it is a pickle, and nothing that it names is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.pickles.nodes import Call, Global, walk
from recon_cli.checkpoints.pickles.reading import read_pickle
from recon_cli.checkpoints.tensors import TORCH_DTYPES
from recon_cli.checkpoints.torch_files.content import MAX_PICKLE_BYTES
from recon_cli.errors import ReconError, quoted

_METADATA = "torch.distributed.checkpoint.metadata"
_OLD_METADATA = "torch.distributed._shard.sharded_tensor.metadata"
_PROPERTIES = (f"{_METADATA}.TensorProperties", f"{_OLD_METADATA}.TensorProperties")
_STORAGE = "torch.distributed.checkpoint.filesystem._StorageInfo"

ALLOWED = frozenset({
    *(f"{_METADATA}.{name}" for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    *_PROPERTIES, f"{_OLD_METADATA}.MEM_FORMAT_ENCODING", _STORAGE,
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
    "torch.Size", "torch.serialization._get_layout", "collections.OrderedDict",
    *(f"torch.{name}" for name in TORCH_DTYPES),
})  # fmt: skip
"""All that the metadata may name."""


@dataclass(frozen=True)
class StoredItem:
    """Where an item lies: an archive within a file of the folder."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Chunk:
    """A rectangular part of a tensor; one without elements need not lie anywhere."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    item: StoredItem | None


@dataclass(frozen=True)
class DistributedTensor:
    """A tensor of the checkpoint.

    :ivar dtype: as safetensors writes it.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Metadata:
    """What the metadata says.

    :ivar entries: the tensors by their flat names; None for anything that is no tensor.
    :ivar paths: where each entry stood in the state dict that was saved.
    """

    entries: Mapping[str, DistributedTensor | None]
    paths: Mapping[str, tuple[str | int, ...]]


def read_metadata(file: InputFile) -> Metadata:
    """Read the metadata.

    :raises ReconError: if it is damaged, names anything that it has no need to, or describes what is not supported.
    """
    what = quoted(file.path)
    if file.size > MAX_PICKLE_BYTES:
        raise ReconError(f"{what} has {file.size} bytes, more than the metadata of any checkpoint")
    root, end = read_pickle(file.read(0, file.size), 0, what)
    if end != file.size:
        raise ReconError(f"{what} has {file.size - end} bytes behind its end", "the file is damaged")
    for _, node in walk(root, what, repeats=file.size):
        if isinstance(node, Global) and node.full_name not in ALLOWED:
            raise ReconError(
                f"{what} names {quoted(node.full_name)}, which no distributed checkpoint needs, so it is not opened",
                "save it with `torch.distributed.checkpoint.save` and its default planner",
            )
        if isinstance(node, Call) and node.full_name is None:
            raise ReconError(f"{what} calls what a computed function would give, so it is not opened")
    return _Reader(what).metadata(root)


class _Reader:
    """Takes the metadata's objects apart, and says which one makes no sense."""

    def __init__(self, what: str) -> None:
        self._what = what

    def metadata(self, root: object) -> Metadata:
        fields = self._fields(root, (f"{_METADATA}.Metadata",))
        described, stored = fields.get("state_dict_metadata"), fields.get("storage_data")
        if not isinstance(described, dict) or not isinstance(stored, dict):
            raise self._broken("it lacks the list of its entries, or where they are")
        items = self._items(stored)
        entries = {self._name(key): self._entry(str(key), node, items) for key, node in described.items()}
        return Metadata(entries, self._paths(fields.get("planner_data"), entries))

    def _items(self, stored: Mapping[object, object]) -> dict[tuple[str, tuple[int, ...]], StoredItem]:
        """Where the chunks lie, by the tensor's name and the chunk's offsets."""
        found: dict[tuple[str, tuple[int, ...]], StoredItem] = {}
        for index, node in stored.items():
            at = self._fields(index, (f"{_METADATA}.MetadataIndex",))
            name = self._name(at.get("fqn"))
            offsets = () if at.get("offset") is None else self._counts(at["offset"], name)
            if (name, offsets) in found:
                raise self._broken(f"it says twice where {quoted(name)} lies")
            found[name, offsets] = self._item(node, name)
        return found

    def _item(self, node: object, name: str) -> StoredItem:
        fields = self._fields(node, (_STORAGE,))
        file, offset, length = fields.get("relative_path"), fields.get("offset"), fields.get("length")
        if not isinstance(file, str) or not _is_count(offset) or not _is_count(length):
            raise self._broken(f"where {quoted(name)} lies makes no sense")
        transforms = fields.get("transform_descriptors")
        if transforms:
            raise ReconError(
                f"{quoted(name)} in {self._what} is compressed or encoded otherwise, which is not supported",
                "save the checkpoint without extensions",
            )
        assert isinstance(offset, int)
        assert isinstance(length, int)
        return StoredItem(file, offset, length)

    def _entry(
        self, key: str, node: object, items: Mapping[tuple[str, tuple[int, ...]], StoredItem]
    ) -> DistributedTensor | None:
        if isinstance(node, Call) and node.full_name == f"{_METADATA}.BytesStorageMetadata":
            return None
        fields = self._fields(node, (f"{_METADATA}.TensorStorageMetadata",))
        chunks = fields.get("chunks")
        if not isinstance(chunks, list):
            raise self._broken(f"{quoted(key)} has no list of chunks")
        shape = self._counts(fields.get("size"), key)
        found = tuple(self._chunk(key, chunk, len(shape), items) for chunk in chunks)
        return DistributedTensor(key, self._dtype(fields.get("properties"), key), shape, found)

    def _chunk(
        self, key: str, node: object, dimensions: int, items: Mapping[tuple[str, tuple[int, ...]], StoredItem]
    ) -> Chunk:
        fields = self._fields(node, (f"{_METADATA}.ChunkStorageMetadata",))
        offsets, sizes = self._counts(fields.get("offsets"), key), self._counts(fields.get("sizes"), key)
        if not len(offsets) == len(sizes) == dimensions:
            raise self._broken(f"a chunk of {quoted(key)} has another number of dimensions than the tensor")
        item = items.get((key, offsets))
        if item is None and 0 not in sizes:
            raise self._broken(f"it does not say where the chunk of {quoted(key)} at {list(offsets)} lies")
        return Chunk(offsets, sizes, item)

    def _dtype(self, node: object, key: str) -> str:
        state = node.state if isinstance(node, Call) and node.full_name in _PROPERTIES else None
        kind = state[0] if isinstance(state, tuple) and state else None
        if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in TORCH_DTYPES:
            raise self._broken(f"{quoted(key)} has no type that is known")
        assert isinstance(state, tuple)
        layout = state[1] if len(state) > 1 else None
        if not isinstance(layout, Call) or layout.arguments != ("torch.strided",):
            raise ReconError(f"{quoted(key)} in {self._what} is sparse or laid out otherwise, which is not supported")
        return TORCH_DTYPES[kind.name]

    def _paths(self, node: object, entries: Mapping[str, object]) -> dict[str, tuple[str | int, ...]]:
        """The planner keeps the way to each entry; without it, names are taken as they are."""
        paths: dict[str, tuple[str | int, ...]] = {key: (key,) for key in entries}
        for key, path in node.items() if isinstance(node, dict) else ():
            if not isinstance(path, tuple) or not path or not all(isinstance(step, (str, int)) for step in path):
                raise self._broken(f"the way to {quoted(key)} makes no sense")
            if key in paths:
                paths[key] = path
        return paths

    def _fields(self, node: object, names: tuple[str, ...]) -> dict[object, object]:
        """The fields of a dataclass's object."""
        if not isinstance(node, Call) or node.full_name not in names or not isinstance(node.state, dict):
            raise self._broken(f"a {names[0].rpartition('.')[2]} was expected where there is none")
        return node.state

    def _counts(self, node: object, key: str) -> tuple[int, ...]:
        """A `torch.Size`."""
        value = node.arguments[0] if isinstance(node, Call) and len(node.arguments) == 1 else None
        if not isinstance(value, tuple) or not all(_is_count(size) for size in value):
            raise self._broken(f"a shape or place of {quoted(key)} makes no sense")
        return value

    def _name(self, node: object) -> str:
        if not isinstance(node, str):
            raise self._broken("a name in it is no text")
        return node

    def _broken(self, reason: str) -> ReconError:
        return ReconError(f"{self._what} is not the metadata of a distributed checkpoint: {reason}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
