"""The plain checkpoint of one task, out of a branched one."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts.plain import Extraction, UsedBranch
from recon_cli.branching.branched import open_fitting
from recon_cli.checkpoints.saving import write_checkpoint


def extract(
    branched: str | Path,
    task: str,
    output: str | Path,
    *,
    manifest: str | Path | None = None,
    key: str | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
) -> Extraction:
    """Write the checkpoint of the original module in which every split layer is the branch that a task uses.

    It holds every tensor of the source, by the source's names and in the source's order, the heads of other tasks as
    well. What else a training checkpoint holds, such as an optimizer's state, is left out.

    :param branched: a branched checkpoint of any kind, trained or not.
    :param output: a torch file by its ending (.pt, .pth, .bin, .ckpt), else safetensors.
    :param manifest: the manifest's file; without it, the manifest inside the checkpoint.
    :param key: the path of the weights in a torch file that holds more.
    :param shard_size: the bytes of tensors in one file. A larger checkpoint is divided into several, and an index.
    :raises ReconError: naming the file, tensor or task that is wrong; nothing is written then.
    """
    branched, manifest = Path(branched), None if manifest is None else Path(manifest)
    with open_fitting(branched, manifest, key) as found:
        plain = found.of_task(task)
        inputs = [branched, manifest or branched]
        files = write_checkpoint(plain, Path(output), shard_size=shard_size, overwrite=overwrite, inputs=inputs)
    return Extraction(
        **found.described(branched, files, plain),
        task=task,
        layers=tuple(UsedBranch(layer=x.name, branch=x.branch_of(task)) for x in found.manifest.splits),
    )
