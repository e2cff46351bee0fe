"""Options that several commands have, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Force = Annotated[bool, typer.Option("--force", help="Replace output files that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings and errors.")]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Where the weights lie in a file that holds more, like `model`.",
        show_default=False,
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-torchscript",
        "--allow-exported",
        help="Open a TorchScript file or an exported program, although that can run code from it.",
    ),
]
BranchedInput = Annotated[
    Path, typer.Argument(metavar="BRANCHED", help="The branched checkpoint of any format, trained or not.")
]
OfManifest = Annotated[
    Path | None,
    typer.Option("--manifest", metavar="FILE", help="The manifest; default: the one inside BRANCHED."),
]
PlainOutput = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="A torch file if it is named .pt, .pth, .bin or .ckpt, else safetensors."
    ),
]
ShardSize = Annotated[
    str | None,
    typer.Option(
        "--shard-size", metavar="N", help="Divide it into files of at most this size, like 5GB.", show_default=False
    ),
]

Device = Annotated[
    str | None,
    typer.Option("--device", metavar="auto|cuda|cpu", help="Where to run; auto takes CUDA where there is one."),
]

MethodName = Annotated[
    str | None,
    typer.Option(
        "--method", metavar="NAME", help="Update rule (see `recon methods`) with its defaults; default: the config's."
    ),
]


def comma_separated(text: str | None) -> tuple[str, ...] | None:
    """The names in `A,B`; None stays None."""
    return None if text is None else tuple(text.split(","))
