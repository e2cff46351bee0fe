"""`recon unsplit`."""

from __future__ import annotations

from typing import Annotated

import typer

from recon_cli.cli.options import BranchedInput, Force, Json, Key, OfManifest, PlainOutput, Quiet, ShardSize
from recon_cli.cli.output import Output


def command(
    branched: BranchedInput,
    output: PlainOutput,
    average: Annotated[
        bool, typer.Option("--average", help="Take the mean of branches that differ; of batch counters the largest.")
    ] = False,
    task: Annotated[
        str | None, typer.Option("--task", metavar="T", help="Take the branches of this task.", show_default=False)
    ] = None,
    manifest: OfManifest = None,
    key: Key = None,
    shard_size: ShardSize = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the shared checkpoint again that was split. Refused if branches differ, unless it is said what to take."""
    from recon_cli.branching.unsplit import unsplit
    from recon_cli.reporting.plain import plain_remarks, unsplitting_view
    from recon_cli.sizes import option_bytes

    sink = Output.choose(json=json, quiet=quiet)
    size = None if shard_size is None else option_bytes(shard_size, "--shard-size")
    found = unsplit(
        branched, output, average=average, task=task, manifest=manifest, key=key, shard_size=size, overwrite=force
    )
    for remark in plain_remarks(found):
        sink.note(remark)
    sink.result(found, lambda: unsplitting_view(found))
