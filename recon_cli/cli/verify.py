"""`recon verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.errors import CHECK_FAILED
from recon_cli.cli.options import AllowCode, Json, Quiet
from recon_cli.cli.output import Output


def command(
    branched: Annotated[Path, typer.Argument(metavar="BRANCHED", help="The branched checkpoint.")],
    source: Annotated[Path, typer.Option("--source", metavar="FILE", help="The checkpoint that it was split from.")],
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="FILE", help="The manifest; default: the one inside BRANCHED."),
    ] = None,
    allow_code: AllowCode = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Check a freshly split checkpoint against its source and manifest, bit for bit. Exit code 1 if they disagree.

    With --allow-exported, exported programs are run as well: outputs and gradients have to be those of the source. With
    --allow-torchscript, the graphs of TorchScript files are compared.
    """
    from recon_cli.branching.verify import verify
    from recon_cli.reporting.verification import verification_view

    sink = Output.choose(json=json, quiet=quiet)
    found = verify(branched, source, manifest, allow_code=allow_code)
    sink.result(found, lambda: verification_view(found))
    if found.passed:
        return None
    sink.warning(f"{branched} is not what was split from {source}")
    return CHECK_FAILED
