"""Writing safetensors by moving bytes: each byte of the source is read once and written to all its places.

The header stands first in the file but is written last, when the digests that its metadata holds are known; its length
is known before, since a digest has always the same length. The same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.digests import PLACEHOLDER
from recon_cli.artifacts.publish import reserve, write_all
from recon_cli.checkpoints.safetensors_source import MAX_HEADER_BYTES, METADATA
from recon_cli.checkpoints.streaming import Advance, FilePlace, Place, Run, stream
from recon_cli.checkpoints.tensors import SAFETENSORS_BITS, CheckpointSource, StoredTensor, TensorInfo
from recon_cli.errors import ReconError, is_unicode, quoted

Digests = Mapping[str, str]
Metadata = Callable[[Digests], Mapping[str, str]]
Places = Mapping[str, Sequence[str]]
"""For every tensor of a source, the names under which it is written; they are all different."""


class SafetensorsLayout:
    """Where tensors lie in a safetensors file that is to be written.

    :param named: the tensors with their names in the file.
    :ivar offsets: where each begins, counted from the end of the header.
    :ivar bytes: the size of all tensors.
    """

    def __init__(self, named: Iterable[tuple[str, TensorInfo]]) -> None:
        self._entries: list[str] = []
        self.offsets: dict[str, int] = {}
        self.bytes = 0
        # Wider types first, as safetensors' own writer does, so that every tensor is aligned to its type.
        for name, tensor in sorted(named, key=lambda item: -SAFETENSORS_BITS.get(item[1].dtype, 0)):
            _check_writable(name, tensor)
            begin, end = self.bytes, self.bytes + tensor.bytes
            # Put together here, as encoding very many small objects takes seconds.
            shape = ",".join(map(str, tensor.shape))
            entry = f'{{"dtype":"{tensor.dtype}","shape":[{shape}],"data_offsets":[{begin},{end}]}}'
            self._entries.append(f"{encode_basestring_ascii(name)}:{entry}")
            self.offsets[name] = begin
            self.bytes = end

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """What stands before the tensors.

        :raises ReconError: if it would be longer than readers accept.
        """
        own = strict_json.encode({METADATA: dict(sorted(metadata.items()))}, indent=None).rstrip(b"\n")
        text = b",".join([own[:-1], *(entry.encode("ascii") for entry in self._entries)]) + b"}"
        text += b" " * (-len(text) % 8)
        if len(text) > MAX_HEADER_BYTES:
            raise ReconError(
                f"the header of {len(self._entries)} tensors would have {len(text)} bytes, and readers of safetensors "
                f"take at most {MAX_HEADER_BYTES}",
                "divide the file with --shard-size",
            )
        return len(text).to_bytes(8, "little") + text


def _check_writable(name: str, tensor: TensorInfo) -> None:
    if name == METADATA or not is_unicode(name):
        raise ReconError(
            f"tensor {quoted(name)} has a name that safetensors cannot hold", "rename it, or name the output .pt"
        )
    if tensor.dtype not in SAFETENSORS_BITS:
        raise ReconError(
            f"tensor {quoted(name)} has the type {tensor.dtype}, which safetensors does not have",
            "name the output .pt to write a torch file",
        )


def write_safetensors(
    descriptor: int, source: CheckpointSource, places: Places, metadata: Metadata, advance: Advance | None = None
) -> Digests:
    """Copy the tensors of a checkpoint into a new safetensors file.

    :param descriptor: an empty file, open for writing.
    :param source: the checkpoint to copy from.
    :param metadata: gives the file's metadata from the digests; its length may not depend on their values.
    :param advance: told what has been written.
    :returns: the digest of every tensor of the source.
    """
    layout = SafetensorsLayout(placed(source.tensors, places))
    start = len(layout.header(metadata(unknown_digests(source))))
    reserve(descriptor, start + layout.bytes)
    goals = {name: FilePlace(descriptor, start + at) for name, at in layout.offsets.items()}
    digests = copy_tensors(source, goals, places, advance)
    write_all(descriptor, layout.header(metadata(digests)), 0)
    return digests


def placed(tensors: Iterable[StoredTensor], places: Places) -> list[tuple[str, StoredTensor]]:
    """Every name that is written, with the tensor of the source that it gets."""
    return [(name, tensor) for tensor in tensors for name in places[tensor.key]]


def unknown_digests(source: CheckpointSource) -> Digests:
    """Digests of the right length for all tensors, before they are known."""
    return {tensor.key: PLACEHOLDER for tensor in source.tensors}


def copy_tensors(
    source: CheckpointSource, goals: Mapping[str, Place], places: Places, advance: Advance | None
) -> Digests:
    """Copy every tensor of a source to all its places, and return the digests.

    :param goals: where each of the names in `places` lies.
    :raises ReconError: if the source changes meanwhile.
    """
    runs = [
        Run(tensor.extent, tensor.begin, tensor.bytes, [goals[name] for name in places[tensor.key]])
        for tensor in source.tensors
    ]
    sums = stream(runs, advance)
    source.check_unchanged()
    return {tensor.key: found.digest or "" for tensor, found in zip(source.tensors, sums, strict=True)}
