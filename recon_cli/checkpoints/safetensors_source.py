"""Reading safetensors by its bytes: an 8-byte length, a JSON header, and the tensors without gaps.

No tensor is built and torch is not imported, so a file of any size is read in a few megabytes of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon_cli.artifacts import strict_json
from recon_cli.checkpoints.extents import FileExtent
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.tensors import SAFETENSORS_BITS, CheckpointSource, StoredTensor, overflows
from recon_cli.errors import ReconError, quoted

MAX_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"


class SafetensorsSource(CheckpointSource):
    """An open safetensors file whose header has been checked against its size.

    :raises ReconError: naming the file and the tensor, if the file is no valid safetensors file.
    """

    FORMAT = "safetensors"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = InputFile(path)
        try:
            header, start = self._read_header()
            self.metadata: Mapping[str, str] = self._take_metadata(header)
            # One extent for all, so that many small tensors are read together.
            self._data = FileExtent(self._file, start, self._file.size - start)
            tensors = [self._tensor(key, entry) for key, entry in header.items()]
            # An empty tensor stands before the one that begins at the same place.
            self.tensors = tuple(sorted(tensors, key=lambda t: (t.begin, t.bytes)))
            self._check_layout()
        except BaseException:
            self._file.close()
            raise
        self.ties: Mapping[str, str] = {}

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read_header(self) -> tuple[dict[str, Any], int]:
        size = self._file.size
        if size < 8:
            raise self._broken("it is shorter than the 8 bytes that begin one")
        length = int.from_bytes(self._file.read(0, 8), "little")
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise self._broken(f"its header claims {length} bytes, but the file has {size}")
        data = self._file.read(8, length)
        if not data.startswith(b"{"):
            raise self._broken("its header does not begin with `{`")
        header = strict_json.parse(data, f"the header of {quoted(self._path)}")
        return header, 8 + length

    def _take_metadata(self, header: dict[str, Any]) -> dict[str, str]:
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._broken("its metadata is no mapping from text to text")
        return metadata

    def _tensor(self, key: str, entry: object) -> StoredTensor:
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise self._broken(f"tensor {quoted(key)} lacks its type, shape or offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in SAFETENSORS_BITS:
            raise self._broken(f"tensor {quoted(key)} has the unknown type {quoted(dtype)}")
        if not isinstance(shape, list) or not all(map(_is_count, shape)):
            raise self._broken(f"the shape of tensor {quoted(key)} is no list of counts")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
            raise self._broken(f"the offsets of tensor {quoted(key)} are no pair of counts")
        if overflows(shape):
            raise self._broken(f"the shape of tensor {quoted(key)} is too large")
        begin, end = offsets
        tensor = StoredTensor(key, dtype, tuple(shape), self._data, begin)
        if tensor.size * SAFETENSORS_BITS[dtype] != 8 * (end - begin):
            raise self._broken(f"tensor {quoted(key)} takes {end - begin} bytes, but its shape needs {tensor.bytes}")
        return tensor

    def _check_layout(self) -> None:
        end = 0
        for tensor in self.tensors:
            if tensor.begin != end:
                fault = "overlaps the one before it" if tensor.begin < end else "leaves a gap before it"
                raise self._broken(f"tensor {quoted(tensor.key)} {fault}")
            end += tensor.bytes
        if end != self._data.bytes:
            raise self._broken(f"its header describes {end} bytes of tensors, but {self._data.bytes} follow")

    def _broken(self, reason: str) -> ReconError:
        return ReconError(f"{quoted(self._path)} is not a valid safetensors file: {reason}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
