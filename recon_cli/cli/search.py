"""`recon search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.options import Device, Force, Json, Quiet
from recon_cli.cli.output import Output
from recon_cli.errors import ReconError


def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The config; `recon init` writes one.")],
    method: Annotated[
        str, typer.Option("--method", metavar="conal|conal-pro|bmtas|ltb", help="How it is searched; see docs.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="What is found; - is standard output.")
    ],
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, metavar="N", help="Passes over the data in each stage; default: the config's."),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", min=1, metavar="N", help="Steps of each stage, in place of epochs.")
    ] = None,
    device: Device = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=2**63 - 1, metavar="N", help="Seeds everything random; default: the config's."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Weights to start from; default: the config's."),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search which tasks share which modules of the network's trunk, by CoNAL, CoNAL-Pro, BMTAS or LTB.

    `recon split CHECKPOINT --search FILE` carries out what is found, and `recon train --manifest` trains it.
    """
    from recon_cli.config.loading import load_config

    sink = Output.choose(json=json, quiet=quiet, to=output)
    loaded = load_config(config)
    if epochs is not None and iterations is not None:
        raise ReconError("--epochs and --iterations contradict each other", "pass one of them")
    # A mistake in the config is told before torch, which takes seconds, is imported.
    from recon_cli.cli.searching import SearchProgress
    from recon_cli.reporting.search import search_view
    from recon_cli.search.run import SearchRequest, search

    request = SearchRequest(loaded, method, epochs, iterations, seed, device, checkpoint)
    with SearchProgress(sink) as progress:
        found = search(request, progress, output, overwrite=force)
    sink.result(found, lambda: search_view(found))
