"""The report of a whole run, for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import RenderableType

from recon_cli.artifacts.run import Answer, RunReport
from recon_cli.errors import counted, number
from recon_cli.reporting.conflict_comparison import conflict_comparison_remarks, conflict_comparison_view
from recon_cli.reporting.result_comparison import result_comparison_remarks, result_comparison_view


def report_view(report: RunReport, folder: Path) -> Iterable[RenderableType]:
    """The table of all networks, how conflicts are distributed in them, and the answer."""
    yield from result_comparison_view(report.results)
    yield ""
    if report.conflicts is not None:
        yield from conflict_comparison_view(report.conflicts)
        yield ""
    split = report.split
    added = split.parameters_after - split.parameters_before
    cost = "" if split.cost is None else f", {split.cost:.2f} times the operations"
    yield (
        f"split: {counted(len(split.layers), 'layer')}, by the conflicts below cosine {number(report.severity)}; "
        f"{100 * added / split.parameters_before:.2f}% more parameters{cost}"
    )
    for answer in report.answers:
        yield _answer_text(answer, len(report.results.runs[0].seeds))
    yield f"results: {folder / 'report.json'}"


def report_remarks(report: RunReport) -> Iterable[str]:
    """What is worth saying about a report besides."""
    yield from result_comparison_remarks(report.results)
    if report.conflicts is not None:
        yield from conflict_comparison_remarks(report.conflicts)


def _answer_text(answer: Answer, seeds: int) -> str:
    """Did it help, by how much, at what cost."""
    costs = [f"{answer.bytes_ratio:.3f} times the size"]
    if answer.operations_ratio is not None:
        costs.append(f"{answer.operations_ratio:.2f} times the operations")
    if answer.seconds_ratio is not None:
        costs.append(f"{answer.seconds_ratio:.2f} times the training time")
    at = f"at {', '.join(costs)}"
    if answer.improvement is None:
        why = "as a figure that counts is missing, or not above 0 without the split"
        return f"{answer.shared}: whether splitting helped is not known, {why}, {at}"
    mean, deviation = answer.improvement.mean, answer.improvement.deviation
    spread = "" if deviation is None else f" ± {deviation:.2f}"
    direction = "helped" if mean > 0 else "did not help"
    doubt = " (one seed: no spread is known)" if seeds == 1 else ""
    if deviation is not None and abs(mean) <= deviation:
        doubt = " (within the spread of the seeds)"
    return f"{answer.shared}: splitting {direction}, {mean:+.2f}%{spread}{doubt}, {at}"
