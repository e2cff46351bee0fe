"""Several ways of training, and how much each improves on the first and on single-task networks."""

from __future__ import annotations

from collections.abc import Sequence

from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.result_comparison import ComparedCriterion, ComparedResults, ResultComparison, Which
from recon_cli.artifacts.training import Results, Statistics
from recon_cli.errors import ReconError, lacking, quoted
from recon_cli.results.improvement import counted_criteria, improvement_over
from recon_cli.results.runs import Run


def compare_results(runs: Sequence[Run], *, single_task: Run | None = None, which: Which = "last") -> ResultComparison:
    """Compare ways of training.

    :param runs: two or more; the first is what the others are compared with.
    :param single_task: the one of them that delta m is over; by default the first, if every task has a network there.
    :param which: whether the figures are those after the last step, or at each seed's best evaluation.
    :raises ReconError: if the runs cannot be compared.
    """
    first = runs[0]
    _check_comparable(runs, which)
    if single_task is None and first.results.single_task:
        single_task = first
    if single_task is not None and not single_task.results.single_task:
        raise ReconError(
            f"{quoted(single_task.name)} is one network for all tasks, not one for each",
            "`recon train --single-task` trains those",
        )
    counted = counted_criteria(first.results.criteria)
    compared = []
    for run in runs:
        results, figures = run.results, _figures(run, which)
        compared.append(
            ComparedResults(
                name=run.name,
                results_digest=digest_bytes(results.to_bytes()),
                single_task=results.single_task,
                seeds=results.seeds,
                best_by=results.best_by,
                figures=figures,
                delta_m=improvement_over(_figures(single_task, which), figures, counted) if single_task else None,
                improvement=improvement_over(_figures(first, which), figures, counted),
                bytes=results.bytes,
                operations_ratio=_ratio(results.operations, first.results.operations),
                seconds_ratio=_ratio(results.seconds, first.results.seconds),
            )
        )
    return ResultComparison(
        tasks=first.results.tasks,
        which=which,
        criteria=tuple(
            ComparedCriterion(**criterion.model_dump(), counted=criterion in counted)
            for criterion in first.results.criteria
        ),
        single_task=None if single_task is None else runs.index(single_task),
        runs=tuple(compared),
    )


def _figures(run: Run, which: Which) -> Statistics:
    return run.results.last if which == "last" else run.results.best


def _ratio(value: float | None, first: float | None) -> float | None:
    return value / first if value is not None and first else None


def _check_comparable(runs: Sequence[Run], which: Which) -> None:
    first = runs[0]
    for run in runs:
        if not _figures(run, which):
            raise ReconError(
                f"{quoted(run.name)} was not evaluated, so there is nothing to compare",
                "name validation data in its config",
            )
    for run in runs[1:]:
        if difference := lacking(first.name, first.results.tasks, run.name, run.results.tasks):
            raise ReconError(f"the runs have different tasks: {difference}", "compare runs of the same tasks")
        wanted, found = _directions(first.results), _directions(run.results)
        if difference := lacking(first.name, wanted, run.name, found):
            raise ReconError(
                f"the runs have different criteria: {difference}", "evaluate all of them by the same metrics"
            )
        for criterion, better in wanted.items():
            if found[criterion] != better:
                raise ReconError(
                    f"of {quoted(criterion)}, {quoted(first.name)} calls {better} values better, {quoted(run.name)} "
                    f"{found[criterion]} ones"
                )


def _directions(results: Results) -> dict[str, str]:
    return {f"{criterion.task}/{criterion.name}": criterion.better for criterion in results.criteria}
