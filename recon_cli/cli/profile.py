"""`recon profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.cli.options import AllowCode, Device, Force, Json, MethodName, Quiet
from recon_cli.cli.output import Output
from recon_cli.torchrun import is_first


def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The config; `recon init` writes one.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The scores file; - is standard output.")
    ],
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", min=1, metavar="N", help="How many steps to train; default: the config's."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=1,
            metavar="N",
            help="How many steps to measure, spread over the run; default: the config's.",
        ),
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", min=1, metavar="N", help="Measure every N-th step instead.")
    ] = None,
    until_stable: Annotated[
        int | None,
        typer.Option(
            "--until-stable",
            min=1,
            metavar="K",
            help="Stop when the first K layers of the ranking have settled: two halves of it share 90% of theirs.",
            show_default=False,
        ),
    ] = None,
    severity: Annotated[
        float | None,
        typer.Option(
            "--severity",
            "-S",
            metavar="S",
            help="Of --until-stable: rank by pairs whose cosine is below S; default -0.1.",
            show_default=False,
        ),
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
    method: MethodName = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            "--memory-limit",
            metavar="SIZE",
            help="What gradients of several tasks may take at a time (2GB); default: a quarter of what is free.",
            show_default=False,
        ),
    ] = None,
    save_cosines: Annotated[
        bool,
        typer.Option("--save-cosines", help="Write every cosine to FILE's sibling .cosines.safetensors as well."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was interrupted; without one, start.")
    ] = False,
    allow_code: AllowCode = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train for some steps, jointly or by an update rule, and measure on every shared layer how often tasks conflict.

    While it runs, a folder beside FILE (scores.run for scores.json) keeps its state. Ctrl-C and SIGTERM let it finish
    the step, save, and end with exit code 130 or 143; the same command with --resume goes on, and ends in the same
    scores. A job that may be preempted:

    \b
      #!/bin/sh
      #SBATCH --requeue --signal=TERM@120
      srun recon profile recon.yaml -o scores.json --resume
    """
    from recon_cli.config.loading import load_config

    # Of several processes that `torchrun` starts, one speaks for all.
    sink = Output.choose(json=json and is_first(), quiet=quiet or not is_first(), to=output)
    loaded = load_config(config)
    # A mistake in the config is told before torch, which takes seconds, is imported.
    from recon_cli.cli.progress import ProfileProgress
    from recon_cli.profiling.run import ProfileRequest, profile
    from recon_cli.reporting.scores import scores_view

    request = ProfileRequest(
        loaded,
        iterations,
        every,
        samples,
        seed,
        device,
        checkpoint,
        memory_limit,
        allow_code,
        method,
        until_stable,
        severity,
    )
    with ProfileProgress(sink) as progress:
        scores = profile(request, progress, output, overwrite=force, resume=resume, save_cosines=save_cosines)
    sink.result(scores, lambda: scores_view(scores, output))
