"""Tensors in memory as a source of bytes, and the files of `torch.save`, which are read into memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from recon_cli.checkpoints.extents import PIECE_BYTES, Extent, Ring
from recon_cli.checkpoints.safetensors_source import METADATA
from recon_cli.checkpoints.state_dict import read_torch_file, ties_in_memory
from recon_cli.checkpoints.tensors import CheckpointSource, StoredTensor
from recon_cli.errors import ReconError, quoted

_NAMES = {
    getattr(torch, attribute): name
    for attribute, name in {
        "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
        "uint16": "U16", "uint32": "U32", "uint64": "U64",
        "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "complex64": "C64",
        "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
        "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
    }.items()
    if hasattr(torch, attribute)
}  # fmt: skip


class TensorExtent(Extent):
    """The values of a tensor in memory, row-major."""

    def __init__(self, value: torch.Tensor, name: str) -> None:
        self._value = value
        self.bytes = value.numel() * value.element_size()
        self.name = name

    def pieces(self, ring: Ring) -> Iterator[memoryview]:  # noqa: ARG002 - nothing is read
        """The values' bytes; a tensor that is not row-major is made so meanwhile."""
        if self.bytes == 0:
            return
        value = self._value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        # Without numpy, the address is the only way from a tensor's memory to a buffer; `value` keeps it alive.
        memory = memoryview((ctypes.c_char * self.bytes).from_address(value.data_ptr())).cast("B")
        for start in range(0, self.bytes, PIECE_BYTES):
            yield memory[start : start + PIECE_BYTES]


class TensorSource(CheckpointSource):
    """Tensors in memory.

    :param values: the tensors by name.
    :param origin: what messages call the place that they come from.
    :raises ReconError: if a tensor cannot be written as safetensors.
    """

    FORMAT = "torch"

    def __init__(self, values: Mapping[str, torch.Tensor], origin: str) -> None:
        self._origin = origin
        self.tensors = tuple(self._describe(key, value) for key, value in values.items())
        self.ties: Mapping[str, str] = ties_in_memory(values)
        self.metadata: Mapping[str, str] = {}

    def check_unchanged(self) -> None:
        """Tensors in memory are taken as they are."""

    def close(self) -> None:
        """Let go of the tensors."""
        self.tensors = ()

    def _describe(self, key: str, value: torch.Tensor) -> StoredTensor:
        name = f"tensor {quoted(key)} of {self._origin}"
        if key == METADATA or not _is_unicode(key):
            raise ReconError(f"{name} has a name that safetensors cannot hold", "rename the tensor")
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            raise ReconError(f"{name} is sparse, quantised, nested or without values; only plain ones can be written")
        if value.dtype not in _NAMES:
            raise ReconError(f"{name} has the type {value.dtype}, which safetensors does not have")
        # A view that repeats its memory (stride 0) could unfold to any size.
        stored = value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > stored:
            raise ReconError(
                f"{name} repeats its memory: it claims {value.numel()} elements, but only {stored} bytes are stored",
                "save it as a tensor of its own: `tensor.contiguous()`",
            )
        return StoredTensor(key, _NAMES[value.dtype], tuple(value.shape), TensorExtent(value, name))


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class TorchSource(TensorSource):
    """What `torch.save` wrote, read into memory.

    :raises ReconError: if the file is no flat state dict, or a tensor cannot be written as safetensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = path.stat()
        super().__init__(read_torch_file(path), quoted(path))

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""
        now = self._path.stat()
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise ReconError(f"{quoted(self._path)} was changed while it was read", "run the command again")
