"""`recon report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.cli.options import Force, Quiet
from recon_cli.cli.output import Output
from recon_cli.errors import counted


def command(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...",
            help="Scores, rankings, manifests, results and comparisons, or folders of `recon run` or `recon train`; "
            "- is standard input.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT", help="The page, - for standard output; or the folder of the pictures."
        ),
    ],
    form: Annotated[
        Literal["html", "svg", "png"],
        typer.Option("--format", help="One page for a browser, or single pictures, which take matplotlib."),
    ] = "html",
    severity: Annotated[
        float | None,
        typer.Option(
            "--severity",
            "-S",
            metavar="S",
            help="Rank the scores by cosines below S; default: the ranking that is given, else -0.1.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show what the files hold as one page that loads nothing: where tasks conflict, what splits cost, what changed.

    Of several scores files, the first is what the report is about, and what the others are compared with.
    """
    from recon_cli.report.materials import read_materials
    from recon_cli.report.writing import write_page, write_pictures

    sink = Output.choose(json=False, quiet=quiet)
    materials = read_materials(files)
    if form != "html":
        written = write_pictures(materials, severity, form, output, overwrite=force)
        sink.note(f"wrote {counted(len(written), 'picture')} to {output}")
        return
    size = write_page(materials, severity, output, overwrite=force)
    if output != STANDARD_STREAM:
        sink.note(f"wrote {output}, {size / 2**10:.0f} KB; it opens in any browser")
