"""`recon run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.chain.stages import Stage
from recon_cli.cli.options import AllowCode, Device, Json, Quiet
from recon_cli.cli.output import Output
from recon_cli.errors import ReconError


def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The config; `recon init` writes one.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder of results; it may hold earlier ones.")
    ],
    first: Annotated[
        Stage | None,
        typer.Option("--from", help="Make this step and all after it anew, from what lies there.", show_default=False),
    ] = None,
    last: Annotated[Stage, typer.Option("--until", help="End with this step.")] = "compare",
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="A,B", help="Train from each of these seeds; default: the config's."),
    ] = None,
    device: Device = None,
    allow_code: AllowCode = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Profile the network, rank and split its layers, train it as it is and split, and compare: did it help?

    The section `run` of the config says what is compared. FOLDER gets the scores, the ranking, the branched
    checkpoints, a folder for every way of training, and report.json. A step is skipped if it was made before from the
    same inputs; the same command after an interrupt goes on.
    """
    from recon_cli.chain.request import RunRequest
    from recon_cli.config.loading import load_config
    from recon_cli.training.seeds import parse_seeds

    sink = Output.choose(json=json, quiet=quiet)
    loaded = load_config(config)
    wanted = None if seeds is None else parse_seeds(seeds)
    request = RunRequest(loaded, output, first, last, wanted, device, allow_code)
    if json and last != "compare":
        raise ReconError(f"--json prints the report, and there is none before --until {last}", "leave one of them out")
    # A mistake in the config is told before torch, which takes seconds, is imported.
    from recon_cli.chain.run import run
    from recon_cli.cli.chain import ChainProgress
    from recon_cli.reporting.run import report_remarks, report_view

    report = run(request, ChainProgress(sink))
    for remark in [] if report is None else report_remarks(report):
        sink.note(remark)
    sink.result(report, lambda: [] if report is None else report_view(report, output))
