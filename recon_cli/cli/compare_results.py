"""`recon compare-results`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from recon_cli.cli.options import Force, Json, Quiet
from recon_cli.cli.output import Output


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B [C ...]",
            help="Two or more folders of `recon train`, or their results files; - is standard input.",
        ),
    ],
    single_task: Annotated[
        Path | None,
        typer.Option(
            "--single-task",
            metavar="S",
            help="The single-task networks that delta m is over; default: A, if that is them.",
            show_default=False,
        ),
    ] = None,
    which: Annotated[
        Literal["last", "best"],
        typer.Option("--which", help="Compare the last evaluation, or each seed's best; see docs."),
    ] = "last",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the comparison here; - is standard output."),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare ways of training: the tasks' figures, what each costs, and by how much it improves on A and on
    single-task networks (delta m of Recon). Improvements are in percent, and above 0 where a run is the better one.
    """
    from recon_cli.reporting.result_comparison import result_comparison_remarks, result_comparison_view
    from recon_cli.results.compare import compare_results
    from recon_cli.results.runs import RunFiles

    sink = Output.choose(json=json, quiet=quiet, to=output)
    files = RunFiles.find(runs, single_task)
    read, baseline = files.read()
    comparison = compare_results(read, single_task=baseline, which=which)
    for remark in result_comparison_remarks(comparison):
        sink.note(remark)
    if output is not None:
        comparison.write(output, overwrite=force, inputs=files.paths)
    sink.result(comparison, lambda: result_comparison_view(comparison))
