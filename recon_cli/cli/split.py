"""`recon split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon_cli.artifacts.sharing import AskedSharing
from recon_cli.cli.options import AllowCode, Force, Json, Quiet, comma_separated
from recon_cli.cli.output import Output
from recon_cli.collector import paused_collector
from recon_cli.layers.names import Granularity


@paused_collector()
def command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The checkpoint: a file of any kind, an index, or a folder.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The branched checkpoint: .safetensors, .pt, .pt2 or .ts."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Where the weights lie in a file that holds more, like `model`."),
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option("--shard-size", metavar="N", help="Divide it into files of at most this size, like 5GB."),
    ] = None,
    ranking: Annotated[
        Path | None,
        typer.Option("--ranking", metavar="FILE", help="The ranking to choose from; - is standard input."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="K", help="Split the first K layers of the ranking."),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", metavar="X", help="Split the layers with a score of X or more."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="N", help="Split down the ranking what fits: 20000 (parameters), 2MB, or 5%."),
    ] = None,
    max_params: Annotated[
        str | None,
        typer.Option(
            "--max-params",
            metavar="N",
            help="Split what removes the most conflict for at most so many further parameters, like 5%, and at most "
            "--max-cost operations if that is given: layers, and the groups of tasks that share a copy.",
        ),
    ] = None,
    max_groups: Annotated[
        int | None,
        typer.Option(
            "--max-groups",
            metavar="G",
            help="At most so many copies of a layer, each for a group of tasks that conflict little; default: a copy "
            "for every task.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", metavar="A,B", help="Split these layers; needs no ranking."),
    ] = None,
    search: Annotated[
        Path | None,
        typer.Option(
            "--search", metavar="FILE", help="Split as `recon search` found; needs no ranking; - is standard input."
        ),
    ] = None,
    random_layers: Annotated[
        int | None,
        typer.Option("--random-layers", metavar="K", help="Split K random layers (the paper's RSL)."),
    ] = None,
    random_parameters: Annotated[
        int | None,
        typer.Option(
            "--random-parameters",
            metavar="K",
            help="Split random layers with as many parameters as the first K of the ranking (the paper's RSP).",
        ),
    ] = None,
    first_k: Annotated[
        int | None,
        typer.Option("--first-k", metavar="K", help="Split the first K ranked layers of the network."),
    ] = None,
    last_k: Annotated[
        int | None,
        typer.Option("--last-k", metavar="K", help="Split the last K ranked layers of the network."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="The seed of a random choice; default 0.", show_default=False),
    ] = None,
    granularity: Annotated[
        Granularity | None,
        typer.Option(
            "--granularity", help="What is ranked, chosen and split as a whole; default layer.", show_default=False
        ),
    ] = None,
    max_cost: Annotated[
        str | None,
        typer.Option(
            "--max-cost",
            metavar="X",
            help="Refuse a split with more than X times the operations of the shared network, like 1.3.",
        ),
    ] = None,
    drop: Annotated[
        bool,
        typer.Option("--drop", help="With --max-cost: instead, go down the ranking and leave out what exceeds it."),
    ] = False,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="A,B", help="The tasks; default: those of the ranking.", show_default=False),
    ] = None,
    batchnorm: Annotated[
        AskedSharing | None,
        typer.Option(
            "--batchnorm",
            help="Running statistics of layers that stay shared behind a split: a set for every stream, which is the "
            "default where it is known which layers those are, or one for all tasks, as published.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done, and write nothing; with --json, as a plan."),
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Carry out this plan; - is standard input."),
    ] = None,
    allow_code: AllowCode = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give every task its own copy of the chosen layers, in a new checkpoint.

    Beside OUT.safetensors, OUT.manifest.json says where every tensor went. In OUT.pt, all else that a torch file held
    stays, and the states of optimizers are branched along. OUT.pt2, from an exported program, and OUT.ts or OUT.ts.pt,
    from a TorchScript file, are programs that PyTorch loads and runs; what comes before the first split is there once.
    """
    from recon_cli.branching.requests import read_request
    from recon_cli.branching.split import run_split
    from recon_cli.cli.writing import WritingProgress
    from recon_cli.reporting.split import cost_remarks, split_remarks, split_view
    from recon_cli.sizes import option_bytes

    sink = Output.choose(json=json, quiet=quiet)
    request = read_request(
        checkpoint,
        key=key,
        plan=plan,
        ranking=ranking,
        search=search,
        tasks=comma_separated(tasks),
        allow_code=allow_code,
        max_cost=max_cost,
        drop=drop,
        batchnorm=batchnorm,
        top_k=top_k,
        min_score=min_score,
        budget=budget,
        max_params=max_params,
        max_groups=max_groups,
        layers=comma_separated(layers),
        random_layers=random_layers,
        random_parameters=random_parameters,
        first_k=first_k,
        last_k=last_k,
        seed=seed,
        granularity=granularity,
    )
    with WritingProgress(sink) as progress:
        result = run_split(
            request,
            output,
            dry_run=dry_run,
            overwrite=force,
            shard_size=None if shard_size is None else option_bytes(shard_size, "--shard-size"),
            with_plan=json,
            announce=progress.announced,
            advance=progress.advanced,
        )
    for warning in result.warnings:
        sink.warning(warning)
    for remark in (*(cost_remarks(result) if dry_run else ()), *split_remarks(result)):
        sink.note(remark)
    sink.result(result.document, lambda: split_view(result))
