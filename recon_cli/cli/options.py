"""Options that several commands have, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Force = Annotated[bool, typer.Option("--force", help="Replace output files that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings and errors.")]
Tasks = Annotated[
    str | None,
    typer.Option("--tasks", metavar="A,B", help="The tasks; default: those of the ranking.", show_default=False),
]
DocumentOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the result here; - is standard output."),
]


def comma_separated(text: str | None) -> tuple[str, ...] | None:
    """The parts of an option's value that stand between commas."""
    return None if text is None else tuple(text.split(","))
