"""`recon compare-conflicts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.options import Force, Json, Quiet
from recon_cli.cli.output import Output


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B [C ...]",
            help="Two or more scores files, or folders with a scores.json; - is standard input.",
        ),
    ],
    bound: Annotated[
        float,
        typer.Option("--bound", "-b", metavar="B", help="Count a reduction of the cosines below B, 0 or less."),
    ] = -0.01,
    edges: Annotated[
        str, typer.Option("--edges", metavar="X,Y", help="Where one interval of cosines ends and the next begins.")
    ] = "0,-0.01,-0.02,-0.03",
    stage: Annotated[
        int | None,
        typer.Option(
            "--stage", metavar="N", help="Compare stage N of the profiles, counted from 1.", show_default=False
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="Compare this shared layer; default: all of them as one vector.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the comparison here; - is standard output."),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare how the cosines of the tasks' gradients are distributed in training runs, and by how much conflicts
    were reduced against the first of them (Recon, Tables 6 and 8 to 10).
    """
    from recon_cli.conflicts.compare import compare_conflicts, parse_edges
    from recon_cli.conflicts.runs import read_runs, scores_files
    from recon_cli.reporting.conflict_comparison import conflict_comparison_remarks, conflict_comparison_view

    sink = Output.choose(json=json, quiet=quiet, to=output)
    comparison = compare_conflicts(read_runs(runs), edges=parse_edges(edges), bound=bound, layer=layer, stage=stage)
    for remark in conflict_comparison_remarks(comparison):
        sink.note(remark)
    if output is not None:
        comparison.write(output, overwrite=force, inputs=scores_files(runs))
    sink.result(comparison, lambda: conflict_comparison_view(comparison))
