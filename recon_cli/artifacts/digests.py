"""Digests as the artifacts write them: `sha256:` and 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
from pathlib import Path

PREFIX = "sha256:"
PLACEHOLDER = PREFIX + "0" * 64
"""A digest of the right length, for a place that is filled in later."""

_CHUNK = 1 << 20


def new_digest() -> hashlib._Hash:
    """The state of a digest that is computed piece by piece."""
    return hashlib.sha256()


def digest_text(state: hashlib._Hash) -> str:
    """A finished digest as it is written."""
    return PREFIX + state.hexdigest()


def digest_bytes(data: bytes) -> str:
    """The digest of bytes in memory."""
    return digest_text(hashlib.sha256(data))


def digest_file(path: Path) -> str:
    """The digest of a file's content."""
    state = new_digest()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return digest_text(state)
