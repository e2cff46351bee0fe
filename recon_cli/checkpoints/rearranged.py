"""Some tensors of a checkpoint under other names, in another order, or with other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recon_cli.checkpoints.tensors import CheckpointSource, StoredTensor


@dataclass(frozen=True)
class Origin:
    """What a tensor is made from.

    :ivar tensor: its type, shape and bytes.
    :ivar keys: the names of the tensors of the checkpoint that its values come from.
    """

    tensor: StoredTensor
    keys: tuple[str, ...]


class Rearranged(CheckpointSource):
    """What is made from some tensors of a checkpoint; it does not close that.

    What is made from tensors that are tied one by one is tied.

    :param origins: the tensors by their new names, in their new order.
    :param left_out: names of texts that it does not take over from the checkpoint's metadata.
    """

    def __init__(self, source: CheckpointSource, origins: Mapping[str, Origin], left_out: Sequence[str] = ()) -> None:
        self._source = source
        self.paths = source.paths
        self.FORMAT = source.FORMAT  # type: ignore[misc]
        self.tensors = tuple(replace(origin.tensor, key=key) for key, origin in origins.items())
        self.metadata = {key: text for key, text in source.metadata.items() if key not in left_out}
        ties: dict[str, str] = {}
        first: dict[tuple[str, ...], str] = {}
        for key, origin in origins.items():
            places = tuple(source.ties.get(name, name) for name in origin.keys)
            if places in first:
                ties[key] = first[places]
            else:
                first[places] = key
        self.ties: Mapping[str, str] = ties

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""
        self._source.check_unchanged()

    def close(self) -> None:
        """Nothing: the checkpoint is open as long as whoever opened it wants."""
