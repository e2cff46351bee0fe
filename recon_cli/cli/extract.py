"""`recon extract`."""

from __future__ import annotations

from typing import Annotated

import typer

from recon_cli.cli.options import BranchedInput, Force, Json, Key, OfManifest, PlainOutput, Quiet, ShardSize
from recon_cli.cli.output import Output


def command(
    branched: BranchedInput,
    task: Annotated[str, typer.Option("--task", metavar="T", help="The task.")],
    output: PlainOutput,
    manifest: OfManifest = None,
    key: Key = None,
    shard_size: ShardSize = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one task's plain checkpoint, which loads into the original module.

    Split layers are the branch that the task uses. All else is kept, the heads of other tasks as well.
    """
    from recon_cli.branching.extract import extract
    from recon_cli.reporting.plain import extraction_view, plain_remarks
    from recon_cli.sizes import option_bytes

    sink = Output.choose(json=json, quiet=quiet)
    size = None if shard_size is None else option_bytes(shard_size, "--shard-size")
    found = extract(branched, task, output, manifest=manifest, key=key, shard_size=size, overwrite=force)
    for remark in plain_remarks(found):
        sink.note(remark)
    sink.result(found, lambda: extraction_view(found))
