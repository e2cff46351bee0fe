"""Reading safetensors by its bytes: an 8-byte length, a JSON header, and the tensors without gaps.

No tensor is built and torch is not imported, so a file of any size is read in a few megabytes of memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recon_cli.artifacts import strict_json
from recon_cli.checkpoints.tensors import DTYPE_BITS, CheckpointSource, TensorInfo
from recon_cli.errors import ReconError, quoted

MAX_HEADER_BYTES = 100_000_000
CHUNK_BYTES = 1 << 20
METADATA = "__metadata__"


class SafetensorsSource(CheckpointSource):
    """An open safetensors file whose header has been checked against its size.

    :raises ReconError: naming the file and the tensor, if the file is no valid safetensors file.
    """

    FORMAT = "safetensors"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            self._opened = os.fstat(self._descriptor)
            header, self._start = self._read_header()
            self.metadata: Mapping[str, str] = self._take_metadata(header)
            self._offsets: dict[str, int] = {}
            tensors = [self._tensor(key, entry) for key, entry in header.items()]
            # An empty tensor stands before the one that begins at the same place.
            self.tensors = tuple(sorted(tensors, key=lambda t: (self._offsets[t.key], t.bytes)))
            self._check_layout()
        except BaseException:
            os.close(self._descriptor)
            raise
        self.ties: Mapping[str, str] = {}
        self._buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))

    def chunks(self, tensor: TensorInfo) -> Iterator[memoryview]:
        """The bytes of a tensor, in pieces that are valid until the next one is asked for."""
        offset = self._start + self._offsets[tensor.key]
        left = tensor.bytes
        while left:
            read = os.preadv(self._descriptor, [self._buffer[: min(left, CHUNK_BYTES)]], offset)
            if read == 0:
                raise ReconError(f"{quoted(self._path)} became shorter while it was read")
            yield self._buffer[:read]
            offset += read
            left -= read

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise ReconError(f"{quoted(self._path)} was changed while it was read", "run the command again")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _read_header(self) -> tuple[dict[str, Any], int]:
        size = self._opened.st_size
        prefix = os.pread(self._descriptor, 8, 0)
        if len(prefix) < 8:
            raise self._broken("it is shorter than the 8 bytes that begin one")
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise self._broken(f"its header claims {length} bytes, but the file has {size}")
        data = os.pread(self._descriptor, length, 8)
        if not data.startswith(b"{"):
            raise self._broken("its header does not begin with `{`")
        header = strict_json.parse(data, f"the header of {quoted(self._path)}")
        return header, 8 + length

    def _take_metadata(self, header: dict[str, Any]) -> dict[str, str]:
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._broken("its metadata is no mapping from text to text")
        return metadata

    def _tensor(self, key: str, entry: object) -> TensorInfo:
        name = quoted(key)
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise self._broken(f"tensor {name} lacks its type, shape or offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
            raise self._broken(f"tensor {name} has the unknown type {quoted(dtype)}")
        if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
            raise self._broken(f"the shape of tensor {name} is no list of counts")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(at) for at in offsets):
            raise self._broken(f"the offsets of tensor {name} are no pair of counts")
        if _overflows(shape):
            raise self._broken(f"the shape of tensor {name} is too large")
        tensor = TensorInfo(key, dtype, tuple(shape))
        begin, end = offsets
        if tensor.size * DTYPE_BITS[dtype] != 8 * (end - begin):
            raise self._broken(f"tensor {name} takes {end - begin} bytes, but its shape needs {tensor.bytes}")
        self._offsets[key] = begin
        return tensor

    def _check_layout(self) -> None:
        end = 0
        for tensor in self.tensors:
            begin = self._offsets[tensor.key]
            if begin != end:
                fault = "overlaps the one before it" if begin < end else "leaves a gap before it"
                raise self._broken(f"tensor {quoted(tensor.key)} {fault}")
            end += tensor.bytes
        found = self._opened.st_size - self._start
        if end != found:
            raise self._broken(f"its header describes {end} bytes of tensors, but {found} follow")

    def _broken(self, reason: str) -> ReconError:
        return ReconError(f"{quoted(self._path)} is not a valid safetensors file: {reason}")


def _overflows(shape: list[int]) -> bool:
    """Whether a size computed in 64 bits would overflow on the way, even if a later dimension is 0."""
    product = 1
    for size in shape:
        product *= size
        if product >= 1 << 64:
            return True
    return False


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
