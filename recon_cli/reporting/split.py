"""What a split does to a checkpoint, for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType

from recon_cli.artifacts.manifest import PlannedOutput
from recon_cli.branching.split import SplitResult
from recon_cli.errors import counted, listed, quoted
from recon_cli.reporting.tables import add_row, make_table, megabytes, percent

_TREATMENTS = {
    "branched": "branched along",
    "kept": "kept as they are",
    "left out": "left out, as safetensors holds tensors alone (an output named .pt, or .pt2 of a program, keeps them)",
}


def split_view(result: SplitResult) -> Iterable[RenderableType]:
    """Which layers are split, and the sizes before and after."""
    plan, sizes = result.decision.plan, result.decision.sizes
    yield f"{counted(len(plan.layers), 'layer')} split for {', '.join(plan.tasks)}:"
    for layer in plan.layers:
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
    yield f"to write: {megabytes(result.output.bytes)}, and a manifest of {megabytes(result.output.manifest_bytes)}"


def split_remarks(result: SplitResult) -> Iterable[str]:
    """What is worth saying about a split besides."""
    decision = result.decision
    sizes = decision.sizes
    if result.key is not None:
        yield f"the weights are those under {quoted(result.key)}"
    for treatment, said in _TREATMENTS.items():
        entries = [entry.path for entry in result.entries if entry.treatment == treatment]
        if entries:
            yield f"{said}: {listed(entries)}"
    for entry in result.entries:
        if entry.reason is not None:
            yield f"{quoted(entry.path)} was not branched along: {entry.reason}"
    if sizes.wanted_parameters:
        off = percent(abs(sizes.split_parameters - sizes.wanted_parameters) / sizes.wanted_parameters)
        yield (
            f"the random {decision.selection.granularity}s have {sizes.split_parameters:,} parameters; "
            f"{sizes.wanted_parameters:,} were wanted, {off} off"
        )
    if decision.untouched:
        yield f"the ranking does not know {listed(decision.untouched)}; kept as they are"
    if decision.without_conflicts:
        idle = decision.without_conflicts
        yield f"{counted(len(idle), 'split layer')} without conflicts: {listed(idle)}"


def announcement(planned: PlannedOutput) -> str:
    """What is said before a split is written."""
    return f"writing {megabytes(planned.total)}"
