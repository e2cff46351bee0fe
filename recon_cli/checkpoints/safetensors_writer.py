"""Writing safetensors by moving bytes: each byte of the source is read once and written to all its places.

The header stands first in the file but is written last, when the digests that its metadata holds are known; its length
is known before, since a digest has always the same length. The same inputs give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.digests import PLACEHOLDER
from recon_cli.artifacts.publish import write_all
from recon_cli.checkpoints.safetensors_source import METADATA
from recon_cli.checkpoints.streaming import Place, Run, stream
from recon_cli.checkpoints.tensors import DTYPE_BITS, CheckpointSource, TensorInfo

Digests = Mapping[str, str]
Metadata = Callable[[Digests], Mapping[str, str]]


def write_safetensors(
    descriptor: int, source: CheckpointSource, places: Mapping[str, Sequence[str]], metadata: Metadata
) -> Digests:
    """Copy the tensors of a checkpoint into a new safetensors file.

    :param descriptor: an empty file, open for writing.
    :param source: the checkpoint to copy from.
    :param places: for every tensor of the source, the names under which it is written; they are all different.
    :param metadata: gives the file's metadata from the digests; its length may not depend on their values.
    :returns: the digest of every tensor of the source.
    """
    entries, offsets, total = _lay_out(source.tensors, places)
    unknown = {tensor.key: PLACEHOLDER for tensor in source.tensors}
    header_size = len(_header(entries, metadata(unknown)))
    if hasattr(os, "posix_fallocate"):
        # A full disk shows here, before anything is written.
        os.posix_fallocate(descriptor, 0, header_size + total)
    runs = [
        Run(
            tensor.extent,
            tensor.begin,
            tensor.bytes,
            [Place(descriptor, header_size + offsets[p]) for p in places[tensor.key]],
        )
        for tensor in source.tensors
    ]
    sums = stream(runs)
    source.check_unchanged()
    digests = {tensor.key: found.digest or "" for tensor, found in zip(source.tensors, sums, strict=True)}
    write_all(descriptor, _header(entries, metadata(digests)), 0)
    return digests


def _lay_out(
    tensors: Sequence[TensorInfo], places: Mapping[str, Sequence[str]]
) -> tuple[dict[str, object], dict[str, int], int]:
    # Wider types first, as safetensors' own writer does, so that every tensor is aligned to its type.
    ordered = sorted(tensors, key=lambda tensor: -DTYPE_BITS[tensor.dtype])
    entries: dict[str, object] = {}
    offsets: dict[str, int] = {}
    end = 0
    for tensor in ordered:
        for place in places[tensor.key]:
            entries[place] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [end, end + tensor.bytes],
            }
            offsets[place] = end
            end += tensor.bytes
    return entries, offsets, end


def _header(entries: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    content = {METADATA: dict(sorted(metadata.items())), **entries}
    text = strict_json.encode(content, indent=None).rstrip(b"\n")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
