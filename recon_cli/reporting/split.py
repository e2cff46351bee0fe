"""What a split does to a checkpoint, for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType

from recon_cli.branching.split import SplitResult
from recon_cli.errors import counted, listed
from recon_cli.reporting.tables import add_row, make_table, megabytes, percent


def split_view(result: SplitResult) -> Iterable[RenderableType]:
    """Which layers are split, and the sizes before and after."""
    document = result.document
    sizes = document.sizes
    yield f"{counted(len(document.layers), 'layer')} split for {', '.join(document.tasks)}:"
    for layer in document.layers:
        names = " = ".join((layer.name, *layer.aliases))
        yield f"  {names}"
    yield ""
    table = make_table("", ">parameters", ">size", ">tensors")
    for name, size in (("before", sizes.before), ("after", sizes.after)):
        add_row(table, [name, f"{size.parameters:,}", megabytes(size.parameter_bytes), size.tensors])
    yield table
    yield ""
    if sizes.shared_parameters:
        share = sizes.split_parameters / sizes.shared_parameters
        yield f"split: {sizes.split_parameters:,} parameters, {percent(share)} of the shared ones"
    else:
        share = sizes.split_parameters / max(sizes.before.parameters, 1)
        yield f"split: {sizes.split_parameters:,} parameters, {percent(share)} of the model's"


def split_remarks(result: SplitResult) -> Iterable[str]:
    """What is worth saying about a split besides."""
    sizes, selection = result.document.sizes, result.document.selection
    if sizes.wanted_parameters:
        off = percent(abs(sizes.split_parameters - sizes.wanted_parameters) / sizes.wanted_parameters)
        yield (
            f"the random {selection.granularity}s have {sizes.split_parameters:,} parameters; "
            f"{sizes.wanted_parameters:,} were wanted, {off} off"
        )
    if result.untouched:
        yield f"the ranking does not know {listed(result.untouched)}; kept as they are"
    if result.without_conflicts:
        idle = result.without_conflicts
        yield f"{counted(len(idle), 'split layer')} without conflicts: {listed(idle)}"
