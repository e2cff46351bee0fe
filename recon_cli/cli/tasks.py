"""`recon tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.options import Json, Quiet
from recon_cli.cli.output import Output


def command(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="The scores file; - is standard input.")],
    severity: Annotated[
        float,
        typer.Option("--severity", "-S", metavar="S", help="Two tasks conflict where their cosine is below S."),
    ] = -0.1,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="Of this shared layer; default: all of them as one vector.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show which tasks conflict, which get along and might share more, and how alike their gradients were over time
    (GDS, GMS, FD).
    """
    from recon_cli.artifacts.scores import Scores
    from recon_cli.relations.relate import relate_tasks
    from recon_cli.reporting.tasks import tasks_remarks, tasks_view

    sink = Output.choose(json=json, quiet=quiet)
    found = relate_tasks(Scores.read(scores), severity, layer)
    for remark in tasks_remarks(found):
        sink.note(remark)
    sink.result(found, lambda: tasks_view(found))
