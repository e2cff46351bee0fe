"""What a search for an architecture found, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType

from recon_cli.artifacts.search import SearchResult, SearchStage
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
        yield table_of(choices_rows(stage, names))


def search_rows(found: SearchResult) -> Rows:
    """For each module the tasks that share its copies, and the ratio of negative cosines (CoNAL, Table 1)."""
    rows = []
    for module in found.modules:
        ratio = found.ratio(module.name)
        groups = " | ".join(", ".join(group) for group in module.groups)
        rows.append([module.name, groups, "" if ratio is None else percent(ratio), f"{module.parameters:,}"])
    return Rows(["module", "tasks of its copies", ">negative cosines", ">parameters"], rows)


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


def _leaves(point: int, modules: Sequence[str]) -> str:
    return f"before {modules[point - 1]}" if point <= len(modules) else "not"
