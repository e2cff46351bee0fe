"""The bytes of a stored tensor, for tests."""

from __future__ import annotations

from recon_cli.checkpoints.extents import Ring
from recon_cli.checkpoints.tensors import StoredTensor


def bytes_of(tensor: StoredTensor) -> bytes:
    """All bytes of a tensor, read at once."""
    whole = b"".join(bytes(piece) for piece in tensor.extent.checked_pieces(Ring()))
    return whole[tensor.begin : tensor.begin + tensor.bytes]
