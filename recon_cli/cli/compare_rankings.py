"""`recon compare-rankings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.errors import CHECK_FAILED
from recon_cli.cli.options import Json, Quiet
from recon_cli.cli.output import Output


def command(
    rankings: Annotated[
        list[Path],
        typer.Argument(metavar="A B [C ...]", help="Two or more rankings; - is standard input."),
    ],
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="K", help="How many layers count as the top; default: 10, or all if fewer."),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare over the layers that all rankings hold.")] = False,
    fail_above: Annotated[
        float | None,
        typer.Option("--fail-above", metavar="X", help="Exit with code 1 if any distance (Eq. 22) is above X."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Compare rankings: distance (Recon, Eq. 22), ranking similarity and overlap of the top K."""
    from recon_cli.ranking.compare import compare_files, exceeds
    from recon_cli.reporting.comparison import comparison_view

    sink = Output.choose(json=json, quiet=quiet)
    comparison = compare_files(rankings, k=top_k, common_only=common)
    too_far = exceeds(comparison, fail_above)
    if comparison.left_out:
        sink.note(f"{len(comparison.left_out)} layers that not all rankings hold are left out")
    sink.result(comparison, lambda: comparison_view(comparison))
    if too_far:
        sink.warning(too_far)
        return CHECK_FAILED
    return None
