"""The weights of an exported program (`.pt2`), which lie in its archive beside the program; that is not read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from recon_cli.artifacts import strict_json
from recon_cli.checkpoints.archives.reading import Archive
from recon_cli.checkpoints.extents import FileExtent
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.pickles.nodes import Global
from recon_cli.checkpoints.tensors import DTYPE_BITS, CheckpointSource, StoredTensor
from recon_cli.checkpoints.torch_files.content import MANIFEST, TorchContent, ZipContent, carried_in
from recon_cli.checkpoints.torch_files.source import TensorList, stored_tensors
from recon_cli.checkpoints.torch_files.tensor_nodes import NotPlainError, StorageName, TensorView, plain_view
from recon_cli.checkpoints.torch_files.weights import choose_weights, refusals
from recon_cli.errors import ReconError, quoted

SCALAR_TYPES: Mapping[int, str] = {
    1: "U8", 2: "I8", 3: "I16", 4: "I32", 5: "I64", 6: "F16", 7: "F32", 8: "F64", 9: "C32", 10: "C64", 11: "C128",
    12: "BOOL", 13: "BF16", 28: "U16", 29: "F8_E4M3", 30: "F8_E5M2", 31: "F8_E4M3FNUZ", 32: "F8_E5M2FNUZ",
    33: "F8_E8M0", 34: "U32", 35: "U64",
}  # fmt: skip
"""The types of tensors by the numbers that torch's schema of exported programs has for them."""

_STRIDED = 7
_MAX_CONFIG_BYTES = 1 << 28
_WEIGHTS = "data/weights/"
_CONFIG = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_PICKLED = ("data/weights/model.pt", "serialized_state_dict.pt")
"""Where torch 2.8, and torch until 2.7, put the whole state dict as one torch file."""

EXTRA_FILES = "extra/"
"""Where `torch.export.save` puts files that it is given besides the program."""

_MEMBER = re.compile(r"weight_[0-9]+")


class ExportedSource(CheckpointSource):
    """The state dict of an exported program.

    :ivar others: its constants, among them buffers that are not persistent.
    :raises ReconError: if it holds none, or describes tensors that are not there or not plain.
    """

    FORMAT = "exported"

    def __init__(self, path: Path) -> None:
        self._file = InputFile(path)
        try:
            archive = Archive(self._file)
            pickled = next((name for name in _PICKLED if name in archive), None)
            self.tensors: tuple[StoredTensor, ...]
            self.ties: Mapping[str, str]
            if pickled is not None:
                self.tensors, self.ties = _pickled_state(self._file, archive.member(pickled))
            elif _CONFIG in archive:
                self.tensors, self.ties = _described_state(self._file, archive)
            else:
                raise ReconError(
                    f"the exported program {quoted(path)} holds no weights of a model",
                    "`torch.export.save` writes them into it",
                )
            self.metadata: Mapping[str, str] = carried_in(archive, EXTRA_FILES + MANIFEST)
            self.others = tuple(name for name, _ in _entries(archive, _CONSTANTS)) if _CONSTANTS in archive else ()
        except BaseException:
            self._file.close()
            raise

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _pickled_state(file: InputFile, member: FileExtent) -> tuple[tuple[StoredTensor, ...], Mapping[str, str]]:
    content = ZipContent(file, member.offset, member.bytes)
    return stored_tensors(choose_weights(content.root, member.name), content, member.name)


def _described_state(file: InputFile, archive: Archive) -> tuple[tuple[StoredTensor, ...], Mapping[str, str]]:
    found = TensorList()
    payloads = _Payloads(archive)
    for key, entry in _entries(archive, _CONFIG):
        try:
            member = _member(entry, archive)
            if entry.get("use_pickle"):
                content = ZipContent(file, member.offset, member.bytes)
                foreign = refusals(content.root, content.archive.name)
                if foreign:
                    raise NotPlainError(f"or holds {foreign[0].reason}, which is neither plain data nor a tensor")
                found.add(key, plain_view(content.root), content)
            else:
                found.add(key, payloads.view(entry, member), payloads)
        except NotPlainError as problem:
            raise ReconError(
                f"the tensor {quoted(key)} of {archive.name} is {problem}", "export the program anew from plain tensors"
            ) from None
    if not found.tensors:
        raise ReconError(f"the exported program {archive.name} has no parameters and buffers")
    return tuple(found.tensors), found.ties


class _Payloads(TorchContent):
    """The members of an archive that hold storages as they are."""

    def __init__(self, archive: Archive) -> None:
        self.root = None
        self._archive = archive
        self._extents: dict[str, FileExtent] = {}
        self._types: dict[str, str] = {}

    def extent(self, storage: StorageName) -> FileExtent:
        """The member of a storage."""
        return self._extents[storage.key]

    def view(self, entry: Mapping[str, object], member: FileExtent) -> TensorView:
        """The tensor that an entry describes.

        :raises NotPlainError: if the description makes no sense, or is not of a plain tensor.
        """
        described = entry.get("tensor_meta")
        if not isinstance(described, dict):
            raise NotPlainError("damaged: it is not described")
        number = described.get("dtype")
        if type(number) is not int or number not in SCALAR_TYPES:
            raise NotPlainError(f"of the type {quoted(number)}, which is not known")
        dtype = SCALAR_TYPES[number]
        if described.get("layout") != _STRIDED:
            raise NotPlainError("sparse or laid out otherwise, which is not supported")
        shape, strides = _counts(described.get("sizes")), _counts(described.get("strides"))
        (offset,) = _counts([described.get("storage_offset")])
        if len(shape) != len(strides):
            raise NotPlainError("damaged: it has more sizes than strides, or fewer")
        name = str(entry["path_name"])
        self._extents.setdefault(name, member)
        if self._types.setdefault(name, dtype) != dtype or member.bytes % (DTYPE_BITS[dtype] // 8):
            raise NotPlainError("damaged: its storage is of another type")
        storage = StorageName(Global("torch", "UntypedStorage"), name, "cpu", member.bytes)
        return TensorView(storage, dtype, offset, shape, strides)


def _entries(archive: Archive, config: str) -> Iterator[tuple[str, dict[str, object]]]:
    """The tensors that a file of the archive describes."""
    what = f"{quoted(config)} of {archive.name}"
    content = strict_json.parse(archive.read(config, _MAX_CONFIG_BYTES), what)
    entries = content.get("config") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ReconError(f"{what} makes no sense: it has no `config` from names to descriptions")
    yield from entries.items()


def _member(entry: Mapping[str, object], archive: Archive) -> FileExtent:
    name = entry.get("path_name")
    if not isinstance(name, str) or not _MEMBER.fullmatch(name) or _WEIGHTS + name not in archive:
        raise NotPlainError(f"damaged: the archive has no weights {quoted(name)}")
    return archive.member(_WEIGHTS + name)


def _counts(values: object) -> tuple[int, ...]:
    """Numbers as the schema writes them, each as `{"as_int": n}`."""
    found = [value.get("as_int") if isinstance(value, dict) else None for value in _list(values)]
    if not all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 for value in found):
        raise NotPlainError("damaged: its sizes, strides or offset are no counts")
    return tuple(found)  # type: ignore[arg-type]


def _list(values: object) -> list[object]:
    if not isinstance(values, list):
        raise NotPlainError("damaged: its sizes or strides are no list")
    return values
