"""What wrappers put before every name of a state dict, such as the `module.` of DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from recon_cli.checkpoints.tensors import CheckpointSource

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""The prefixes of DistributedDataParallel and AveragedModel, of torch.compile, and of FullyShardedDataParallel."""


def wrapper_prefix(keys: Collection[str]) -> str:
    """What wrappers have put before all names; empty if nothing.

    :param keys: the names of a state dict.
    """
    prefix = ""
    while found := next((wrapper for wrapper in WRAPPERS if _all_begin(keys, prefix + wrapper)), None):
        prefix += found
    return prefix


def prefix_before(keys: Collection[str], layers: Iterable[str]) -> str:
    """What stands before all names where some layers are found only behind it; empty if they fit, or nothing does.

    :param layers: names of layers, as the bare module has them.
    """
    layers = list(layers)
    prefix = ""
    while layers and keys and not all(_is_layer(keys, prefix, layer) for layer in layers):
        first = next(iter(keys))[len(prefix) :].partition(".")
        if not first[1] or not _all_begin(keys, prefix + first[0] + "."):
            return ""
        prefix += first[0] + "."
    return prefix


class Unprefixed(CheckpointSource):
    """A checkpoint with the names that its module gives when nothing is wrapped around it.

    :param source: the checkpoint as it is; it is closed with this one.
    :param prefix: what all of its names begin with.
    """

    def __init__(self, source: CheckpointSource, prefix: str) -> None:
        self.source = source
        self.prefix = prefix
        length = len(prefix)
        self.FORMAT = source.FORMAT  # type: ignore[misc]
        # Without a prefix they are the same, and there may be very many.
        renamed = (replace(tensor, key=tensor.key[length:]) for tensor in source.tensors)
        self.tensors = tuple(renamed) if prefix else source.tensors
        self.ties = {key[length:]: first[length:] for key, first in source.ties.items()}
        self.metadata = source.metadata
        self.key = source.key
        self.others = source.others
        self.paths = source.paths

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""
        self.source.check_unchanged()

    def close(self) -> None:
        """Let go of the file."""
        self.source.close()


def _all_begin(keys: Collection[str], prefix: str) -> bool:
    return bool(keys) and all(key.startswith(prefix) and len(key) > len(prefix) for key in keys)


def _is_layer(keys: Collection[str], prefix: str, layer: str) -> bool:
    return any(key == prefix + layer or key.startswith(f"{prefix}{layer}.") for key in keys)
