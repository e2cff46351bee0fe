"""What `torch.save` wrote, as data: a tree of containers, and the bytes of its storages."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from recon_cli.checkpoints.archives.reading import Archive
from recon_cli.checkpoints.extents import FileExtent
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.pickles.nodes import PersistentId, walk
from recon_cli.checkpoints.pickles.reading import TruncatedPickleError, read_pickle
from recon_cli.checkpoints.tensors import DTYPE_BITS
from recon_cli.checkpoints.torch_files.tensor_nodes import DamagedError, NotPlainError, StorageName, storage_name
from recon_cli.errors import ReconError, quoted

MAX_PICKLE_BYTES = 1 << 28
"""More than the names of any checkpoint take."""

MANIFEST = "recon.manifest.json"
"""The member that holds the text which the file carries; `torch.load` does not look at it."""

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class TorchContent(ABC):
    """The content of one torch file, or of one that lies within another file.

    :ivar root: what was saved, as inert data.
    :ivar carried: the text that Recon has put beside it, by its name.
    """

    FORM: ClassVar[str]
    """What such a file is called, in words."""
    root: object
    carried: Mapping[str, str]

    @abstractmethod
    def extent(self, storage: StorageName) -> FileExtent:
        """Where a storage lies; one object for each storage, however often it is asked for.

        :raises NotPlainError: if it is not there, or has another size than the pickle says.
        """


class ZipContent(TorchContent):
    """The present form: an archive of a pickle and of one member for each storage.

    :param offset: where the archive begins in the file.
    :param length: its bytes.
    :param pickle: the member that holds the tree.
    """

    FORM = "torch file (zip)"

    def __init__(
        self, file: InputFile, offset: int = 0, length: int | None = None, *, pickle: str = "data.pkl"
    ) -> None:
        self.archive = Archive(file, offset, length)
        self._extents: dict[str, FileExtent] = {}
        self._storages: dict[str, StorageName] = {}
        if pickle not in self.archive:
            raise ReconError(
                f"{self.archive.name} is a zip archive, but not one that `torch.save` wrote: it has no {quoted(pickle)}"
            )
        if "byteorder" in self.archive and self.archive.read("byteorder", 16) != b"little":
            raise ReconError(f"{self.archive.name} was written on a big-endian machine, which is not supported")
        data = self.archive.read(pickle, MAX_PICKLE_BYTES)
        what = f"{quoted(pickle)} of {self.archive.name}"
        self.root, end = read_pickle(data, 0, what)
        if end != len(data):
            raise ReconError(f"{what} has {len(data) - end} bytes behind its end", "the file is damaged")
        self.carried = carried_in(self.archive)

    def extent(self, storage: StorageName) -> FileExtent:
        """The member of a storage."""
        name = f"data/{storage.key}"
        if name not in self._extents:
            if name not in self.archive:
                raise DamagedError(f"the archive has no member {quoted(name)}")
            self._extents[name] = self.archive.member(name)
            self._storages[name] = storage
        _check_name(storage, self._storages[name], older=False)
        found, claimed = self._extents[name].bytes, storage.count * DTYPE_BITS[storage.dtype] // 8
        if found != claimed:
            raise DamagedError(f"its storage has {found} bytes, but should have {claimed}")
        return self._extents[name]


def carried_in(archive: Archive, member: str = MANIFEST) -> dict[str, str]:
    """The text that Recon has put into an archive, by its name.

    :param member: where it is.
    """
    if member not in archive:
        return {}
    text = archive.read(member, MAX_PICKLE_BYTES).decode("utf-8", "replace")
    return {MANIFEST.removesuffix(".json"): text}


class LegacyContent(TorchContent):
    """The form that torch wrote before version 1.6: several pickles, and the storages one after the other.

    :raises ReconError: if the file is none of that form, or is cut off.
    """

    FORM = "torch file (of the form before torch 1.6)"

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self.carried = {}
        (protocol, system, self.root, keys), at = _read_pickles(file)
        if protocol != _PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
            raise ReconError(f"{quoted(file.path)} is of a form of torch files that is not known")
        if not system.get("little_endian", True):
            raise ReconError(f"{quoted(file.path)} was written on a big-endian machine, which is not supported")
        if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
            raise ReconError(f"{quoted(file.path)} is damaged: its list of storages makes no sense")
        self._storages = self._named()
        self._extents = _lay_out(file, [str(key) for key in keys], at, self._storages)

    def extent(self, storage: StorageName) -> FileExtent:
        """The range of a storage."""
        if storage.key not in self._extents:
            raise DamagedError("its storage is not in the file")
        _check_name(storage, self._storages[storage.key], older=True)
        return self._extents[storage.key]

    def _named(self) -> dict[str, StorageName]:
        """The storages that the tree names; each is written once."""
        found: dict[str, StorageName] = {}
        for _, node in walk(self.root, quoted(self._file.path)):
            if isinstance(node, PersistentId):
                with contextlib.suppress(NotPlainError):
                    storage = storage_name(node)
                    found.setdefault(storage.key, storage)
        return found


def _lay_out(file: InputFile, keys: list[str], at: int, storages: Mapping[str, StorageName]) -> dict[str, FileExtent]:
    """Where each storage lies: before each stands its number of elements."""
    extents = {}
    for key in keys:
        if key not in storages:
            raise ReconError(f"{quoted(file.path)} is damaged: it holds a storage {quoted(key)} that nothing names")
        if at + 8 > file.size:
            raise _cut_off(file)
        count = int.from_bytes(file.read(at, 8), "little")
        if count != storages[key].count:
            raise ReconError(
                f"{quoted(file.path)} is damaged: its storage {quoted(key)} has {count} elements, "
                f"but should have {storages[key].count}",
                "copy or download the file again",
            )
        size = count * DTYPE_BITS[storages[key].dtype] // 8
        extents[key] = FileExtent(file, at + 8, size)
        at += 8 + size
    if at > file.size:
        raise _cut_off(file)
    if at < file.size:
        raise ReconError(f"{quoted(file.path)} has {file.size - at} bytes behind its end", "the file is damaged")
    return extents


def _cut_off(file: InputFile) -> ReconError:
    return ReconError(f"{quoted(file.path)} is cut off or damaged", "copy or download the file again")


def _read_pickles(file: InputFile) -> tuple[list[object], int]:
    """The four pickles behind the magic number, read through a window that grows until it holds them."""
    window = min(1 << 20, file.size)
    while True:
        data = file.read(0, window)
        try:
            magic, at = read_pickle(data, 0, quoted(file.path))
            if magic != _MAGIC:
                raise ReconError(
                    f"{quoted(file.path)} is a pickle, but not one that `torch.save` wrote",
                    "save the weights alone: `torch.save(model.state_dict(), path)`",
                )
            found = []
            for _ in range(4):
                node, at = read_pickle(data, at, quoted(file.path))
                found.append(node)
            return found, at
        except TruncatedPickleError:
            if window == file.size or window >= MAX_PICKLE_BYTES:
                raise
            window = min(16 * window, file.size, MAX_PICKLE_BYTES)


def _check_name(storage: StorageName, first: StorageName, *, older: bool) -> None:
    """torch takes a storage for what the first tensor says of it."""
    if storage.older != older:
        raise DamagedError("its storage is named as in another form of torch files")
    if (storage.type.full_name, storage.count) != (first.type.full_name, first.count):
        raise DamagedError("its storage has another type or size than an earlier tensor says")
