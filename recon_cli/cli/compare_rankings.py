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
        typer.Argument(metavar="A [B ...]", help="Rankings, or scores to rank; - is standard input."),
    ],
    severity: Annotated[
        float | None,
        typer.Option(
            "--severity", "-S", metavar="S", help="Rank scores by this severity; default -0.1.", show_default=False
        ),
    ] = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="Rank scores by each stage of the profile, and by all of it.")
    ] = False,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="K", help="How many layers count as the top; default: 10, or all if fewer."),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare over the layers that all rankings hold.")] = False,
    fail_above: Annotated[
        float | None,
        typer.Option("--fail-above", metavar="X", help="Exit with code 1 if any distance (Eq. 22) is above X."),
    ] = None,
    fail_below: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-below",
            metavar="MEASURE=X",
            help="Exit with code 1 if any similarity, tau, rho or overlap is below X, as overlap=0.8; may be repeated.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Compare rankings: distance (Recon, Eq. 22), similarity, Kendall's tau, Spearman's rho, overlap of the top K, and
    what random orders come to (Tables 12 and 14).
    """
    from recon_cli.ranking.compare import compare
    from recon_cli.ranking.limits import failures
    from recon_cli.ranking.reading import read_rankings
    from recon_cli.reporting.comparison import comparison_remarks, comparison_view, comparison_warnings

    sink = Output.choose(json=json, quiet=quiet)
    compared = read_rankings(rankings, severity, stages=stages)
    comparison = compare(compared, k=top_k, common_only=common)
    failed = failures(comparison, fail_above, fail_below or [])
    for warning in comparison_warnings(compared):
        sink.warning(warning)
    for remark in comparison_remarks(compared, comparison):
        sink.note(remark)
    sink.result(comparison, lambda: comparison_view(comparison))
    for sentence in failed:
        sink.warning(sentence)
    return CHECK_FAILED if failed else None
