"""`recon init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.cli.options import Force, Quiet
from recon_cli.cli.output import Output


def command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; - is standard output.")] = Path(
        "recon.yaml"
    ),
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented config to start from; it runs as it stands."""
    from recon_cli.config.template import write_template

    sink = Output.choose(json=False, quiet=quiet)
    write_template(path, overwrite=force)
    if path != STANDARD_STREAM:
        sink.note(f"wrote {path}; try `recon profile {path} -o scores.json`")
