"""`recon rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.options import Force, Json, Quiet
from recon_cli.cli.output import Output


def _explain(wanted: bool) -> None:
    if wanted:
        from recon_cli.reporting.ranking import kinds_view

        Output.choose(json=False, quiet=False).result(None, kinds_view)
        raise typer.Exit


def command(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="The scores file; - is standard input.")],
    severity: Annotated[
        float | None,
        typer.Option(
            "--severity",
            "-S",
            metavar="S",
            help="Count pairs whose cosine is below S; default -0.1. For the score z, cos sqrt(d); default -2.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[
        int | None,
        typer.Option(
            "--stage", metavar="N", help="Rank by stage N of the profile, counted from 1.", show_default=False
        ),
    ] = None,
    score: Annotated[
        str, typer.Option("--score", metavar="NAME", help="Rank by this score; --explain lists them.")
    ] = "conflicts",
    stability: Annotated[
        int | None,
        typer.Option(
            "--stability",
            metavar="K",
            help="Say how certain the first K places are, by resampling the profile.",
            show_default=False,
        ),
    ] = None,
    cosines: Annotated[
        Path | None,
        typer.Option(
            "--cosines",
            metavar="FILE",
            help="Count from these, which `profile --save-cosines` wrote, at any severity.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the ranking here; - is standard output."),
    ] = None,
    explain: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--explain", callback=_explain, is_eager=True, help="Say what each score is and when to take it, and exit."
        ),
    ] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rank the shared layers by how often their tasks' gradients conflict, or by another score.

    A plain `{layer: score}` file is accepted as well.
    """
    from recon_cli.artifacts.cosines import Cosines
    from recon_cli.artifacts.document import name_of, read_json
    from recon_cli.ranking.documents import rank_document
    from recon_cli.reporting.ranking import ranking_remarks, ranking_view, ranking_warnings, stability_view

    sink = Output.choose(json=json, quiet=quiet, to=output)
    given = None if cosines is None else Cosines.read(cosines)
    ranking = rank_document(read_json(scores), name_of(scores), severity, stage, given, kind=score, k=stability)
    for warning in ranking_warnings(ranking):
        sink.warning(warning)
    for remark in ranking_remarks(ranking):
        sink.note(remark)
    if output is not None:
        ranking.write(output, overwrite=force, inputs=[scores] if cosines is None else [scores, cosines])
    sink.result(ranking, lambda: [*ranking_view(ranking), *stability_view(ranking)])
