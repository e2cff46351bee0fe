"""Writing torch files by moving bytes: a tree of containers, and its storages as members of an archive.

The archive is the one that `torch.save` writes, so `torch.load` reads it, mapped into memory or not. The same inputs
give the same bytes.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from recon_cli.artifacts.publish import reserve, write_all
from recon_cli.checkpoints.archives.writing import ArchiveLayout
from recon_cli.checkpoints.gathering import fills_a_range, row_major
from recon_cli.checkpoints.pickles.nodes import Call, Global, PersistentId
from recon_cli.checkpoints.pickles.writing import write_pickle
from recon_cli.checkpoints.streaming import Advance, FilePlace, Run, stream
from recon_cli.checkpoints.tensors import DTYPE_BITS, TORCH_DTYPES, CheckpointSource, StoredTensor
from recon_cli.checkpoints.torch_files.content import MANIFEST, TorchContent
from recon_cli.checkpoints.torch_files.source import locate
from recon_cli.checkpoints.torch_files.tensor_nodes import (
    STORAGE_DTYPES,
    TensorView,
    check_bounds,
    storage_name,
    with_storage,
)
from recon_cli.errors import ReconError, quoted

Digests = Mapping[str, str]

ROOT = "archive"


_KINDS = {dtype: kind for kind, dtype in TORCH_DTYPES.items()}
_STORAGES = {
    dtype: name for name, dtype in STORAGE_DTYPES.items() if not name.startswith("Q") and name != "UntypedStorage"
}
"""The classes of storages that torch has for the types that are older than untyped storages."""


class TreeStorages(ABC):
    """The storages of a tree that is to be written, as its persistent ids name them."""

    @abstractmethod
    def identity(self, node: PersistentId) -> object:
        """What tells a storage from all others; it is written once."""

    @abstractmethod
    def run(self, node: PersistentId) -> Run:
        """The bytes of a storage."""

    @abstractmethod
    def renamed(self, node: PersistentId, name: str) -> object:
        """The value of the persistent id when its storage is called `name`."""


class TorchFile:
    """A torch file that is to be written, laid out.

    :param root: what it holds, inert.
    :param storages: the storages that it names.
    :param text: what the file carries besides, if anything.
    :ivar bytes: the size of the file.
    """

    def __init__(self, root: object, storages: TreeStorages, text: bytes | None) -> None:
        numbers: dict[object, str] = {}
        self._runs: list[Run] = []

        def rename(node: PersistentId) -> object:
            identity = storages.identity(node)
            if identity not in numbers:
                numbers[identity] = str(len(numbers))
                self._runs.append(storages.run(node))
            return storages.renamed(node, numbers[identity])

        pickle = write_pickle(root, rename)
        self._small = {"data.pkl": pickle, "byteorder": b"little", "version": b"3\n"}
        if text is not None:
            self._small[MANIFEST] = text
        sizes = [(name, len(content)) for name, content in self._small.items()]
        records = [(f"data/{number}", run.bytes) for number, run in enumerate(self._runs)]
        members = [*sizes[:2], *records, *sizes[2:]]
        self._archive = ArchiveLayout(ROOT, members)
        self.bytes = self._archive.size

    def write(
        self,
        descriptor: int,
        source: CheckpointSource,
        text: Callable[[Digests], bytes] | None,
        advance: Advance | None = None,
    ) -> Digests:
        """Write the file.

        :param descriptor: an empty file, open for writing.
        :param source: what the tree was made from; the digests of its tensors are taken on the way.
        :param text: gives what the file carries from the digests, as long as what it was laid out with.
        :returns: the digests.
        :raises ReconError: if the source changes meanwhile.
        """
        reserve(descriptor, self.bytes)
        digested = [Run(tensor.extent, tensor.begin, tensor.bytes) for tensor in source.tensors]
        copied = [
            replace(run, places=[FilePlace(descriptor, self._archive.offsets[f"data/{number}"])])
            for number, run in enumerate(self._runs)
        ]
        sums = stream([*digested, *copied], advance)
        source.check_unchanged()
        digests = {t.key: found.digest or "" for t, found in zip(source.tensors, sums[: len(digested)], strict=True)}
        small = self._small if text is None else {**self._small, MANIFEST: text(digests)}
        crcs = {name: zlib.crc32(content) for name, content in small.items()}
        crcs.update({f"data/{number}": found.crc or 0 for number, found in enumerate(sums[len(digested) :])})
        for name, content in small.items():
            write_all(descriptor, content, self._archive.offsets[name])
        self._archive.write_headers(descriptor, crcs)
        return digests


class SourceStorages(TreeStorages):
    """The storages of a file that is rewritten, and the copies of some of its tensors.

    :param content: the file; its storages are written whole.
    """

    def __init__(self, content: TorchContent) -> None:
        self._content = content
        self._copies: dict[PersistentId, Run] = {}
        self._identities: dict[PersistentId, object] = {}

    def copied(self, node: object, view: TensorView, identity: object) -> Call:
        """A tensor on a storage of its own, which holds it and nothing else.

        :param node: what rebuilds the tensor now.
        :param view: the tensor.
        :param identity: what tells the copy from others of the same tensor.
        :raises NotPlainError: if its bytes are not there.
        """
        run, strides = self._elements(view)
        name = view.storage
        storage = PersistentId(("storage", name.type, "", name.location, run.bytes * 8 // DTYPE_BITS[name.dtype]))
        self._copies[storage] = run
        self._identities[storage] = ("copy", identity)
        return with_storage(node, storage, 0, strides)

    def _elements(self, view: TensorView) -> tuple[Run, Sequence[int]]:
        """The bytes of a tensor's elements, and the strides that they have there."""
        bits = DTYPE_BITS[view.dtype]
        size = math.prod(view.shape)
        if fills_a_range(view.shape, view.strides):
            # In whichever order, such as that of channels_last; they stay in it.
            whole = self._content.extent(view.storage)
            check_bounds(view, whole.bytes * 8 // bits)
            return Run(whole, view.offset * bits // 8, size * bits // 8, digest=False, crc=True), view.strides
        extent, begin = locate(view, self._content)
        return Run(extent, begin, size * bits // 8, digest=False, crc=True), row_major(view.shape)

    def identity(self, node: PersistentId) -> object:
        """The key of a storage in its file, or what a copy was added with."""
        return self._identities.get(node) or storage_name(node).key

    def run(self, node: PersistentId) -> Run:
        """The whole storage, or the copied tensor."""
        if node in self._copies:
            return self._copies[node]
        extent = self._content.extent(storage_name(node))
        return Run(extent, 0, extent.bytes, digest=False, crc=True)

    def renamed(self, node: PersistentId, name: str) -> object:
        """The same id with another key."""
        found = storage_name(node)
        return ("storage", found.type, name, found.location, found.count)


class TensorStorages(TreeStorages):
    """The storages of a flat state dict that is made from tensors of any format; each tensor has its own."""

    def __init__(self) -> None:
        self._tensors: dict[PersistentId, tuple[object, StoredTensor]] = {}

    def node(self, tensor: StoredTensor, identity: object) -> Call:
        """What rebuilds a tensor.

        :param identity: tensors of the same identity are tied.
        :raises ReconError: if torch has no such type.
        """
        if tensor.dtype not in _KINDS:
            raise ReconError(
                f"tensor {quoted(tensor.key)} has the type {tensor.dtype}, which torch does not have",
                "name the output .safetensors",
            )
        typed = _STORAGES.get(tensor.dtype)
        kind = Global("torch", typed) if typed else Global("torch.storage", "UntypedStorage")
        storage = PersistentId(("storage", kind, "", "cpu", tensor.size if typed else tensor.bytes))
        self._tensors[storage] = (identity, tensor)
        arguments = (
            storage,
            0,
            tensor.shape,
            row_major(tensor.shape),
            False,
            Call(Global("collections", "OrderedDict")),
        )
        if typed:
            return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)
        dtype = Global("torch", _KINDS[tensor.dtype])
        return Call(Global("torch._utils", "_rebuild_tensor_v3"), (*arguments, dtype))

    def identity(self, node: PersistentId) -> object:
        """What the tensor was given."""
        return self._tensors[node][0]

    def run(self, node: PersistentId) -> Run:
        """The tensor's bytes."""
        tensor = self._tensors[node][1]
        return Run(tensor.extent, tensor.begin, tensor.bytes, digest=False, crc=True)

    def renamed(self, node: PersistentId, name: str) -> object:
        """The same id with another key."""
        assert isinstance(node.value, tuple)
        return (*node.value[:2], name, *node.value[3:])
