"""`recon diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.errors import CHECK_FAILED
from recon_cli.cli.options import Json, Quiet
from recon_cli.cli.output import Output


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint of any format.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    key_a: Annotated[
        str | None,
        typer.Option(
            "--key-a", metavar="KEY", help="Where the weights lie in A, if it holds more.", show_default=False
        ),
    ] = None,
    key_b: Annotated[
        str | None,
        typer.Option(
            "--key-b", metavar="KEY", help="Where the weights lie in B, if it holds more.", show_default=False
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Compare two checkpoints by names, types, shapes and values. Exit code 1 if they differ."""
    from recon_cli.checkpoints.diff import diff
    from recon_cli.reporting.difference import difference_remarks, difference_view

    sink = Output.choose(json=json, quiet=quiet)
    found = diff(a, b, key_a=key_a, key_b=key_b)
    for remark in difference_remarks(found):
        sink.note(remark)
    sink.result(found, lambda: difference_view(found))
    return None if found.equal else CHECK_FAILED
