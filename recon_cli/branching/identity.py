"""What makes a checkpoint the one that it was: its tensors, their values, and the text beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.manifest import SourceCheckpoint
from recon_cli.checkpoints.prefixes import Unprefixed
from recon_cli.checkpoints.tensors import CheckpointSource


def identity_of(source: Unprefixed, checkpoint: Path, digests: Mapping[str, str]) -> SourceCheckpoint:
    """What a manifest says of its source: one digest over the names, types, shapes and digests of all tensors.

    :param checkpoint: its path.
    :param digests: the digests of its tensors.
    """
    lines = [f"{t.key}\0{t.dtype}\0{list(t.shape)}\0{digests[t.key]}\n" for t in source.tensors]
    return described(source, checkpoint, digest_bytes("".join(sorted(lines)).encode()))


def described(source: Unprefixed, checkpoint: Path, digest: str) -> SourceCheckpoint:
    """What is known of a checkpoint, with a digest that is known or stands in for it."""
    return SourceCheckpoint(
        name=_text_of(checkpoint.name or checkpoint.resolve().name),
        format=source.FORMAT,
        digest=digest,
        key=source.key,
        prefix=source.prefix,
    )


def _text_of(name: str) -> str:
    """A file name as text; bytes in it that are no UTF-8 are written as escape sequences."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def metadata_digest(source: CheckpointSource) -> str:
    """The digest of the text that a checkpoint carries besides its tensors."""
    return digest_bytes(strict_json.encode(dict(sorted(source.metadata.items())), indent=None))
