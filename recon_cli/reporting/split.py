"""What a split does to a checkpoint, for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType

from recon_cli.artifacts.manifest import Manifest, SplitLayer, SplitPlan
from recon_cli.branching.costs import added_text
from recon_cli.branching.split import SplitResult
from recon_cli.branching.statistics import layers_in_doubt
from recon_cli.errors import counted, listed, number, quoted
from recon_cli.reporting.tables import Rows, add_row, make_table, megabytes, percent

_DEAREST = 3
"""So many layers are named before a split is written."""

_TREATMENTS = {
    "branched": "branched along",
    "kept": "kept as they are",
    "left out": "left out, as safetensors holds tensors alone (an output of the source's kind, like .pt, keeps them)",
}


def split_view(result: SplitResult) -> Iterable[RenderableType]:
    """Which layers are split, what each costs alone, and the sizes before and after."""
    plan, sizes, cost = result.decision.plan, result.decision.sizes, result.decision.cost
    yield f"{counted(len(plan.layers), 'layer')} split for {', '.join(plan.tasks)}:"
    for layer in plan.layers:
        names = " = ".join((layer.name, *layer.aliases))
        said = [_groups(layer)] if len(layer.branches) < len(plan.tasks) else []
        said += [] if cost is None else [_operations(cost.added_by(layer.name))]
        yield f"  {': '.join((names, *said))}"
    if plan.statistics:
        own = listed([each.name for each in plan.statistics])
        yield f"running statistics of {counted(len(plan.statistics), 'other layer')} for every stream: {own}"
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
    if cost is not None:
        yield f"operations: {cost.ratio:.3f} times those of the shared network"
    conflict = result.decision.selection.conflict
    if conflict is not None and conflict.found:
        yield f"conflict: {percent(conflict.removed)} of the ranking's is removed"
    yield f"to write: {megabytes(result.output.bytes)}, and a manifest of {megabytes(result.output.manifest_bytes)}"


def split_rows(document: Manifest | SplitPlan) -> Rows:
    """The split layers, the tasks of their branches, and what each adds in operations where that is known."""
    cost = document.cost
    rows = []
    for layer in document.layers:
        branches = _groups(layer)
        added = "" if cost is None else percent(cost.added_by(layer.name))
        rows.append([" = ".join((layer.name, *layer.aliases)), branches, added])
    return Rows(["layer", "tasks of its branches", ">added operations"], rows)


def split_remarks(result: SplitResult) -> Iterable[str]:
    """What is worth saying about a split besides."""
    decision = result.decision
    sizes = decision.sizes
    if result.key is not None:
        yield f"the weights are those under {quoted(result.key)}"
    if result.program is not None and result.program.way == "fork":
        yield "the program's graph is forked: what is the same for several tasks is computed once"
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
    if decision.batchnorm == "unknown" and (norms := layers_in_doubt(decision.plan)):
        yield (
            f"the running statistics of {counted(len(norms), 'unsplit layer')} stay shared ({listed(norms)}), because "
            "it is not known either which of them lie behind a split"
        )
    if decision.untouched:
        yield f"the ranking does not know {listed(decision.untouched)}; kept as they are"
    if decision.without_conflicts:
        idle = decision.without_conflicts
        yield f"{counted(len(idle), 'split layer')} without conflicts: {listed(idle)}"


def announcements(result: SplitResult) -> Iterable[str]:
    """What is said before a split is written: what it adds, and how much is written."""
    sizes, cost = result.decision.sizes, result.decision.cost
    parameters = sizes.after.parameters - sizes.before.parameters
    size = megabytes(sizes.after.parameter_bytes - sizes.before.parameter_bytes)
    added = f"the split adds {parameters:,} parameters ({size})"
    if cost is None:
        yield added
    else:
        yield f"{added} and {percent(cost.ratio - 1)} operations"
        dearest = sorted(cost.by_layer, key=cost.added_by, reverse=True)
        shown = [added_text(cost, name) for name in dearest[:_DEAREST] if cost.added_by(name) > 0]
        if len(dearest) > 1 and shown:
            yield f"alone, {', '.join(shown)}"
    yield from cost_remarks(result)
    yield f"writing {megabytes(result.output.total)}"


def cost_remarks(result: SplitResult) -> Iterable[str]:
    """What else is to be said of what a split costs in operations."""
    selection = result.decision.selection
    if selection.left_out:
        names = listed(selection.left_out, limit=len(selection.left_out))
        yield f"left out, to stay within {number(selection.max_cost or 1)} times the operations: {names}"
    if result.cost_unknown is not None:
        yield f"what the split costs in operations is not known: {result.cost_unknown}"


def _groups(layer: SplitLayer) -> str:
    return " | ".join(", ".join(branch.tasks) for branch in layer.branches)


def _operations(share: float) -> str:
    return f"+{percent(share)} operations"
