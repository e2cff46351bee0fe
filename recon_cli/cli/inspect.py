"""`recon inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.errors import CHECK_FAILED
from recon_cli.cli.options import Json, Quiet
from recon_cli.cli.output import Output


def command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A checkpoint or its index, or a document of Recon; - is standard input."),
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="PATH", help="Where the weights are in a file that holds more: `ema.model`."),
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor, and all of what is shortened else.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Show what is in a checkpoint, scores, a ranking or a manifest. Nothing in the file is run.

    Exit code 1 if other commands would refuse the file as it is; what can be read of it is shown all the same.
    """
    from recon_cli.inspection.inspect import inspect_file
    from recon_cli.reporting.inspection import inspection_view

    sink = Output.choose(json=json, quiet=quiet)
    found = inspect_file(file, key)
    sink.result(found, lambda: inspection_view(found, whole=tensors))
    if found.passed:
        return None
    sink.warning(f"{file} would be refused as it is")
    return CHECK_FAILED
