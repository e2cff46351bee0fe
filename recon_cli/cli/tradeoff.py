"""`recon tradeoff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.options import Json, Quiet
from recon_cli.cli.output import Output


def command(
    ranking: Annotated[Path, typer.Argument(metavar="RANKING", help="The ranking; - is standard input.")],
    max_groups: Annotated[
        int | None,
        typer.Option(
            "--max-groups",
            metavar="G",
            help="At most so many copies of a layer, each for a group of tasks; default: as many as there are tasks.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show how much conflict a split can remove for how many parameters and operations, and what the first K layers of
    the ranking remove, as published.

    `recon split --max-params N --max-cost X` makes such a split.
    """
    from recon_cli.artifacts.ranking import Ranking
    from recon_cli.reporting.tradeoff import tradeoff_remarks, tradeoff_view
    from recon_cli.tradeoff.curve import tradeoff

    sink = Output.choose(json=json, quiet=quiet)
    found = tradeoff(Ranking.read(ranking), max_groups)
    for remark in tradeoff_remarks(found):
        sink.note(remark)
    sink.result(found, lambda: tradeoff_view(found))
