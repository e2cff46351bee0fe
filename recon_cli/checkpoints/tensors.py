"""Tensors as a checkpoint describes them, and where their bytes lie; none is built."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar

from recon_cli.artifacts.formats import CheckpointFormat
from recon_cli.checkpoints.extents import Extent

SAFETENSORS_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""The types that the safetensors format has, and the bits of one element."""

DTYPE_BITS: Mapping[str, int] = {**SAFETENSORS_BITS, "C32": 32, "C128": 128}
"""All types that are read, and the bits of one element; torch has two more."""

TORCH_DTYPES: Mapping[str, str] = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex32": "C32", "complex64": "C64", "complex128": "C128",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""The types of torch by its names for them."""


def overflows(shape: Sequence[int]) -> bool:
    """Whether a size computed in 64 bits would overflow on the way, even if a later dimension is 0."""
    product = 1
    for size in shape:
        product *= size
        if product >= 1 << 64:
            return True
    return False


@dataclass(frozen=True)
class TensorInfo:
    """Name, type and shape of a tensor.

    :ivar dtype: the type's name as safetensors writes it.
    :ivar size: the number of elements.
    :ivar bytes: the size in bytes.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    size: int = field(init=False, repr=False, compare=False)
    bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Computed once, as there may be very many tensors, and everything asks for these.
        size = math.prod(self.shape)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "bytes", (size * DTYPE_BITS[self.dtype] + 7) // 8)


@dataclass(frozen=True)
class StoredTensor(TensorInfo):
    """A tensor and its bytes, row-major and little-endian without gaps.

    :ivar extent: what they are a part of.
    :ivar begin: where they begin in it.
    """

    extent: Extent
    begin: int = 0


def is_computable(tensor: TensorInfo) -> bool:
    """Whether torch has a tensor's type, so that its numbers can be computed with."""
    return tensor.dtype in _COMPUTABLE


def is_fractional(dtype: str) -> bool:
    """Whether a type is of floating or complex numbers, not of whole ones."""
    return dtype.startswith(("F", "BF", "C"))


_COMPUTABLE = frozenset(TORCH_DTYPES.values())


@dataclass(frozen=True)
class FoundTensor:
    """A tensor as far as its file can be read.

    :ivar info: its type and shape, if they are known; a `StoredTensor` if its bytes can be read.
    :ivar tied: the name of an earlier tensor that lies in the same memory.
    :ivar problem: why its bytes cannot be read, completing `it is ...`.
    :ivar damaged: whether that is because the file contradicts itself.
    """

    key: str
    info: TensorInfo | None
    tied: str | None = None
    problem: str | None = None
    damaged: bool = False


@dataclass(frozen=True)
class Entry:
    """Something that lies beside the weights of a checkpoint.

    :ivar path: where it is, as `--key` takes it.
    :ivar kind: what it is, in words.
    :ivar tensors: how many tensors are in it.
    :ivar bytes: the size of their storages and of other binary data in it.
    """

    path: str
    kind: str
    tensors: int = 0
    bytes: int = 0


AnySource = TypeVar("AnySource", bound="CheckpointSource")


class CheckpointSource(ABC):
    """A checkpoint that is read: what is in it, and where the bytes of each tensor lie.

    :ivar tensors: its tensors in its own order.
    :ivar ties: for a tensor that lies in the same memory as an earlier one, that one's name.
    :ivar metadata: the text that the file carries besides its tensors.
    :ivar key: where they lie in a file that holds more, as `--key` takes it; None if there is nothing else.
    :ivar others: the names of what is left out beside them; those of a torch file are in its tree.
    :ivar paths: the files that it consists of, if it was opened as one or several.
    """

    FORMAT: ClassVar[CheckpointFormat]
    tensors: tuple[StoredTensor, ...]
    ties: Mapping[str, str]
    metadata: Mapping[str, str]
    key: str | None = None
    others: tuple[str, ...] = ()
    paths: Sequence[Path] = ()

    @property
    def form(self) -> str:
        """What such a file is called, in words."""
        return "torch file" if self.FORMAT == "torch" else self.FORMAT

    @property
    def entries(self) -> Sequence[Entry]:
        """What lies beside the weights."""
        return tuple(Entry(name, "not read") for name in self.others)

    @abstractmethod
    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self: AnySource) -> AnySource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
