"""Plain checkpoints that were made from branched ones, for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType

from recon_cli.artifacts.plain import Extraction, PlainCheckpoint, Unsplitting
from recon_cli.errors import counted
from recon_cli.reporting.tables import add_row, make_table, megabytes, percent


def extraction_view(found: Extraction) -> Iterable[RenderableType]:
    """What was written for a task, and how much of it belongs to the task alone."""
    yield _written(found)
    yield (
        f"{counted(found.tensors - found.kept, 'tensor')} of {counted(len(found.layers), 'layer')} are those of "
        f"task {found.task}, {found.kept} are kept as they are"
    )


def unsplitting_view(found: Unsplitting) -> Iterable[RenderableType]:
    """What was written, and what became of branches that differed."""
    yield _written(found)
    branched = f"the branches of {found.tensors - found.kept} tensors"
    if found.method == "task":
        yield f"{branched} are those of task {found.task}"
    elif found.method == "equal":
        yield f"{branched} were equal, bit for bit"
    else:
        yield f"{branched} are joined; those of {found.averaged} differed and are averaged:"
        yield ""
        table = make_table("layer", ">branches", ">tensors", ">largest difference", ">of the norm")
        for layer in found.layers or ():
            if layer.differing:
                largest = "" if layer.largest is None else f"{layer.largest:.3g}"
                relative = "" if layer.relative is None else percent(layer.relative)
                add_row(table, [layer.layer, layer.branches, layer.differing, largest, relative])
        yield table


def plain_remarks(found: PlainCheckpoint) -> Iterable[str]:
    """What is worth saying about a plain checkpoint besides."""
    if found.found_prefix != found.prefix and found.found_prefix:
        yield f"all names begin with `{found.found_prefix}` in {found.checkpoint}; it is left out"
    if found.prefix:
        yield f"all names that are written begin with `{found.prefix}`, as in the source"
    for retyped in found.retyped:
        count = counted(retyped.tensors, "tensor")
        yield f"{count} of type {retyped.source} in the manifest have the type {retyped.found}, and keep it"


def _written(found: PlainCheckpoint) -> str:
    size = f"{counted(found.tensors, 'tensor')}, {megabytes(found.tensor_bytes)}"
    return f"{size}, in {found.files[-1]}" + (f" and {len(found.files) - 1} shards" if len(found.files) > 1 else "")
