"""`recon train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.options import AllowCode, Device, Force, Json, MethodName, Quiet
from recon_cli.cli.output import Output
from recon_cli.errors import ReconError
from recon_cli.torchrun import is_first


def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The config; `recon init` writes one.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder of results.")],
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="Branch the network by this manifest, plan or branched checkpoint."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Weights to start from, branched ones with --manifest; default: the config's.",
        ),
    ] = None,
    reinitialise: Annotated[
        bool,
        typer.Option("--reinitialise", help="Let the copies of split layers begin anew instead of equal; see docs."),
    ] = False,
    single_task: Annotated[
        bool, typer.Option("--single-task", help="Train a network for every task alone, as a baseline.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="A,B", help="One training for each of these seeds; default: the config's."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, metavar="N", help="Passes over the data; default: the config's.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", min=1, metavar="N", help="Steps, in place of epochs.")
    ] = None,
    method: MethodName = None,
    device: Device = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was begun in FOLDER; without anything there, start.")
    ] = False,
    allow_code: AllowCode = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the network, or the branched one, and evaluate it on the validation data.

    FOLDER gets results.json, and a folder for every seed with the log, the best and the last weights, and, where the
    config asks for it, the conflicts that were measured on the way (scores.json). Ctrl-C and SIGTERM let it finish the
    step, save, and end with exit code 130 or 143; the same command with --resume goes on, and ends in the same log.
    """
    from recon_cli.config.loading import load_config
    from recon_cli.training.seeds import parse_seeds

    # Of several processes that `torchrun` starts, one speaks for all.
    sink = Output.choose(json=json and is_first(), quiet=quiet or not is_first())
    loaded = load_config(config)
    wanted = None if seeds is None else parse_seeds(seeds)
    if epochs is not None and iterations is not None:
        raise ReconError("--epochs and --iterations contradict each other", "pass one of them")
    if reinitialise and manifest is None:
        raise ReconError("--reinitialise is about the copies of split layers", "pass --manifest as well")
    if reinitialise and checkpoint is not None:
        raise ReconError(
            "--checkpoint holds weights for all copies of split layers, so that --reinitialise would leave none anew",
            "leave one of them out",
        )
    if single_task and (manifest is not None or method is not None):
        raise ReconError(
            "a network for one task has nothing to split or to balance", "leave out --manifest and --method"
        )
    if loaded.config.validation is None:
        sink.note("nothing will be evaluated, as the config has no section `validation`")
    # A mistake in the config is told before torch, which takes seconds, is imported.
    from recon_cli.cli.training import TrainingProgress
    from recon_cli.experiment.branching import Branching
    from recon_cli.reporting.training import results_view
    from recon_cli.training.request import TrainRequest
    from recon_cli.training.run import train

    branching = None if manifest is None else Branching.read(manifest, reinitialise=reinitialise)
    request = TrainRequest(
        config=loaded,
        seeds=wanted,
        single_task=single_task,
        branching=branching,
        checkpoint=checkpoint,
        epochs=epochs,
        iterations=iterations,
        method=loaded.config.chosen_method(method),
        device=device,
        allow_code=allow_code,
    )
    with TrainingProgress(sink) as progress:
        results = train(request, progress, output, overwrite=force, resume=resume)
    sink.result(results, lambda: results_view(results, output))
