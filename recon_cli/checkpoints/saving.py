"""Writing a state dict, from memory or from another checkpoint, into files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.publish import check_output, publishing
from recon_cli.checkpoints.safetensors_writer import write_safetensors
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.writing import flat_writer
from recon_cli.errors import ReconError

if TYPE_CHECKING:
    import torch


def save_state_dict(
    state: Mapping[str, torch.Tensor],
    path: Path,
    *,
    overwrite: bool = False,
    carried: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict as safetensors; tied tensors are written under each of their names.

    :param carried: texts that the file carries besides, by their names.
    :raises ReconError: if the file exists and `overwrite` is off, or the format has no such tensor.
    """
    from recon_cli.checkpoints.memory_source import TensorSource

    check_output(path, overwrite=overwrite)
    metadata = {"format": "pt", **(carried or {})}
    with TensorSource(state, "the state dict") as source, publishing([path], overwrite=overwrite) as (file,):
        write_safetensors(file.descriptor, source, {key: (key,) for key in state}, lambda _: metadata)


def write_checkpoint(
    source: CheckpointSource,
    output: Path,
    *,
    shard_size: int | None = None,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
) -> tuple[Path, ...]:
    """Write all tensors of a checkpoint, by moving bytes, in the form that the output's name asks for.

    :param output: a torch file by its ending (.pt, .pth, .bin, .ckpt), else safetensors.
    :param shard_size: the bytes of tensors in one file. A larger checkpoint is divided into several, and an index.
    :param inputs: files besides those of `source` that are not to be replaced.
    :returns: the files that were written.
    :raises ReconError: if one of them exists and `overwrite` is off, is an input, or cannot hold a tensor.
    """
    if output == STANDARD_STREAM:
        raise ReconError("a checkpoint is not written to standard output", "name a file: `-o plain.safetensors`")
    kept = [*source.paths, *inputs]
    check_output(output, overwrite=overwrite, inputs=kept)
    places = {tensor.key: (tensor.key,) for tensor in source.tensors}
    writer = flat_writer(output, source, places, shard_size=shard_size)
    for path in writer.paths:
        check_output(path, overwrite=overwrite, inputs=kept)
    with publishing(writer.paths, overwrite=overwrite) as files:
        writer.write([file.descriptor for file in files])
    return tuple(writer.paths)
