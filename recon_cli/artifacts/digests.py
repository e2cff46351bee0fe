"""Digests as the artifacts write them: the algorithm, a colon and 64 hexadecimal digits.

Files and documents have SHA-256, which every system has a command for. Tensors have BLAKE3: it takes less time than
copying their bytes, where SHA-256 takes more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from blake3 import blake3

FILE_PREFIX = "sha256:"
_TENSOR_PREFIX = "blake3:"
PLACEHOLDER = _TENSOR_PREFIX + "0" * 64
"""A digest of a tensor of the right length, for a place that is filled in later."""

_CHUNK = 1 << 20


def new_tensor_digest() -> blake3:
    """The state of a tensor's digest, which is computed piece by piece."""
    return blake3()


def tensor_digest_text(state: blake3) -> str:
    """A tensor's finished digest as it is written."""
    return _TENSOR_PREFIX + state.hexdigest()


def digest_bytes(data: bytes) -> str:
    """The digest of bytes in memory."""
    return FILE_PREFIX + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """The digest of a file's content."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return FILE_PREFIX + state.hexdigest()
