"""`recon transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.options import Force, Json, Quiet, comma_separated
from recon_cli.cli.output import Output


def command(
    ranking: Annotated[Path, typer.Argument(metavar="RANKING", help="The ranking; - is standard input.")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="Scores or a ranking of the other network, even of a short profile: what its layers are, their sizes "
            "and its tasks.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            "--rename", metavar="OLD=NEW", help="What layers are called there, like encoder.*=backbone.*; repeatable."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B", help="The other network's tasks, without --to.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the ranking here; - is standard output."),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a ranking that was found on one dataset over to another one, or to a network with other names."""
    from recon_cli.artifacts.ranking import Ranking
    from recon_cli.ranking.reading import read_rankings
    from recon_cli.ranking.transfer import Renaming, transfer
    from recon_cli.reporting.ranking import ranking_view, transfer_remarks

    sink = Output.choose(json=json, quiet=quiet, to=output)
    other = None if to is None else read_rankings([to])[0].ranking
    given = [Renaming.parse(each) for each in rename or ()]
    found = transfer(Ranking.read(ranking), other, given, comma_separated(tasks))
    for remark in transfer_remarks(found):
        sink.note(remark)
    if output is not None:
        found.ranking.write(output, overwrite=force, inputs=[ranking] if to is None else [ranking, to])
    sink.result(found.ranking, lambda: ranking_view(found.ranking))
