"""Tensors in memory as a source of bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping

import torch

from recon_cli.checkpoints.extents import PIECE_BYTES, Extent, Ring
from recon_cli.checkpoints.state_dict import ties_in_memory
from recon_cli.checkpoints.tensors import TORCH_DTYPES, CheckpointSource, StoredTensor
from recon_cli.errors import ReconError, quoted

_NAMES = {getattr(torch, kind): name for kind, name in TORCH_DTYPES.items() if hasattr(torch, kind)}


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
        # Without numpy, the address is the only way from a tensor's memory to a buffer. Pieces are used when this
        # generator has ended, so the buffer that they are parts of keeps the tensor alive.
        buffer = (ctypes.c_char * self.bytes).from_address(value.data_ptr())
        buffer.tensor = value  # type: ignore[attr-defined]
        memory = memoryview(buffer).cast("B")
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
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            raise ReconError(f"{name} is sparse, quantised, nested or without values; only plain ones can be written")
        if value.dtype not in _NAMES:
            raise ReconError(f"{name} has the type {value.dtype}, which is not supported")
        # A view that repeats its memory (stride 0) could unfold to any size.
        stored = value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > stored:
            raise ReconError(
                f"{name} repeats its memory: it claims {value.numel()} elements, but only {stored} bytes are stored",
                "save it as a tensor of its own: `tensor.contiguous()`",
            )
        return StoredTensor(key, _NAMES[value.dtype], tuple(value.shape), TensorExtent(value, name))
