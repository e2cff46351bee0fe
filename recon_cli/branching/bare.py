"""Opening a checkpoint under the names of the bare module, whatever was wrapped around it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recon_cli.artifacts.manifest import Manifest, SourceCheckpoint
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.prefixes import Unprefixed, prefix_before, wrapper_prefix
from recon_cli.errors import ReconError, quoted


def open_bare(checkpoint: Path, key: str | None, layers: Iterable[str]) -> Unprefixed:
    """Open a checkpoint without what stands before all of its names.

    :param key: the path of the weights in a torch file that holds more.
    :param layers: layers of the bare module. A prefix other than those of the usual wrappers is known by them.
    :raises ReconError: if it cannot be opened.
    """
    source = open_checkpoint(checkpoint, key)
    names = [tensor.key for tensor in source.tensors]
    prefix = wrapper_prefix(names)
    return Unprefixed(source, prefix + prefix_before([name[len(prefix) :] for name in names], layers))


def open_as_recorded(checkpoint: Path, record: SourceCheckpoint) -> Unprefixed:
    """Open a checkpoint under the names that a manifest or a plan gives to its tensors.

    :raises ReconError: if it cannot be opened, or its names have not the prefix that is recorded.
    """
    return _open(checkpoint, record.key, record)


def open_branched(branched: Path, manifest: Manifest) -> Unprefixed:
    """Open a branched checkpoint under the names that its manifest gives to its tensors.

    :raises ReconError: as :func:`open_as_recorded` does.
    """
    return _open(branched, weights_key(manifest), manifest.source)


def weights_key(manifest: Manifest) -> str | None:
    """Where the weights lie in a branched checkpoint: as in the source, if the rest of that was kept."""
    keeps_entries = any(entry.treatment != "left out" for entry in manifest.entries)
    return manifest.source.key if keeps_entries else None


def _open(checkpoint: Path, key: str | None, record: SourceCheckpoint) -> Unprefixed:
    source = open_checkpoint(checkpoint, key)
    if not all(tensor.key.startswith(record.prefix) for tensor in source.tensors):
        source.close()
        raise ReconError(f"the names in {quoted(checkpoint)} do not all begin with {quoted(record.prefix)}")
    return Unprefixed(source, record.prefix)
