"""What a search for an architecture found, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType

from recon_cli.artifacts.search import ExpectedResource, SearchResult, SearchStage
from recon_cli.errors import counted
from recon_cli.reporting.tables import Rows, percent, table_of


def search_view(found: SearchResult) -> Iterable[RenderableType]:
    """Who shares which modules, how often gradients conflicted there, and what each task chose."""
    names = [module.name for module in found.modules]
    yield (
        f"{found.method}: {counted(found.steps, 'step')} in {counted(len(found.stages), 'stage')}, "
        f"{found.seconds:.1f} seconds"
    )
    yield ""
    yield table_of(search_rows(found))
    for number, stage in enumerate(found.stages, start=1):
        yield ""
        yield f"softmax(alpha) at the end{f' of stage {number}' if len(found.stages) > 1 else ''}:"
        yield table_of(copies_rows(stage) if stage.sampled else choices_rows(stage, names))
        if stage.resource is not None:
            yield ""
            yield resource_text(stage.resource)


def search_rows(found: SearchResult) -> Rows:
    """For each module the tasks that share its copies, and the ratio of negative cosines (CoNAL, Table 1)."""
    looked = any(stage.conflicts for stage in found.stages)
    rows = []
    for module in found.modules:
        ratio = found.ratio(module.name)
        groups = " | ".join(", ".join(group) for group in module.groups)
        cosines = ["" if ratio is None else percent(ratio)] if looked else []
        rows.append([module.name, groups, *cosines, f"{module.parameters:,}"])
    return Rows(["module", "tasks of its copies", *([">negative cosines"] if looked else []), ">parameters"], rows)


def choices_rows(stage: SearchStage, modules: Sequence[str]) -> Rows:
    """For each task its probabilities of the branch points.

    :param modules: the names of the chain's modules.
    """
    points = sorted({point for choice in stage.choices for point in choice.points})
    rows = []
    for choice in stage.choices:
        known = dict(zip(choice.points, choice.probabilities, strict=True))
        # Small rates move probabilities by little.
        rows.append([choice.task, _leaves(choice.chosen, modules), *(f"{known[p]:.4f}" for p in points)])
    columns = [_leaves(point, modules) for point in points]
    return Rows(["task", "leaves", *(f">{column}" for column in columns)], rows)


def copies_rows(stage: SearchStage) -> Rows:
    """For each module and reader the copy that was chosen, and the probabilities of all."""
    copies = len(stage.sampled[0].probabilities[0])
    rows = [
        [choices.module, reader, chosen, *(f"{probability:.4f}" for probability in of_reader)]
        for choices in stage.sampled
        for reader, chosen, of_reader in zip(choices.readers, choices.chosen, choices.probabilities, strict=True)
    ]
    columns = [f">copy {number}" for number in range(1, copies + 1)]
    return Rows(["module", "read by", ">chosen copy", *columns], rows)


def resource_text(resource: ExpectedResource) -> str:
    """What a branching that is drawn costs, in words."""
    shared = f"{resource.shared:,} {resource.unit} of these modules if all tasks share them"
    if resource.expected is None:
        return shared
    return f"{shared}, {resource.expected:,.0f} expected of a branching that is drawn"


def _leaves(point: int, modules: Sequence[str]) -> str:
    return f"before {modules[point - 1]}" if point <= len(modules) else "not"
