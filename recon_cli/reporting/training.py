"""A training for people: while it runs, and what it came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table

from recon_cli.artifacts.training import Figures, Results, Statistic
from recon_cli.config.schema import LOSS
from recon_cli.errors import counted
from recon_cli.reporting.tables import add_row, make_table, megabytes


def progress_table(
    losses: Mapping[str, float | None], rates: Sequence[float], evaluations: Sequence[tuple[int, Figures, bool]]
) -> Table:
    """The tasks' losses in training, and their figures in the last evaluation and in the best.

    :param evaluations: the epoch, the figures, and whether they are the best by now.
    """
    names = {
        (task, name): None for _, figures, _ in evaluations for task, of_task in figures.items() for name in of_task
    }
    heads = [f">{'best, ' if is_best else ''}epoch {epoch}" for epoch, _, is_best in evaluations]
    table = make_table("task", "", ">training", *heads)
    for task, loss in losses.items():
        figures = [name for owner, name in names if owner == task] or [LOSS]
        for place, name in enumerate(figures):
            cells = [of_epoch.get(task, {}).get(name) for _, of_epoch, _ in evaluations]
            in_training = figure_text(loss) if name == LOSS else ""
            add_row(table, [task if place == 0 else "", name, in_training, *map(figure_text, cells)])
    if rates:
        add_row(table, ["learning rate", "", ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates))])
    return table


def results_view(results: Results, folder: Path) -> Iterable[RenderableType]:
    """What a training came to: every task's figures, and what the network costs."""
    kind = "a network for every task" if results.single_task else f"{', '.join(results.tasks)} by {results.method.name}"
    yield f"trained {kind}, {counted(len(results.seeds), 'seed')}, {counted(results.steps, 'step')}"
    yield ""
    if results.last:
        has_best = results.best != results.last
        table = make_table("task", "", ">last", *([f">best by {results.best_by}"] if has_best else []))
        for task, statistics in results.last.items():
            for place, (name, statistic) in enumerate(statistics.items()):
                cells = [statistic, results.best[task][name]] if has_best else [statistic]
                add_row(table, [task if place == 0 else "", name, *map(statistic_text, cells)])
        yield table
        yield ""
    operations = "" if results.operations is None else f", {operations_text(results.operations)} for a batch forward"
    split = f", {counted(results.split_layers, 'layer')} split" if results.split_layers else ""
    yield f"#P {megabytes(results.bytes)}{split}{operations}, {duration_text(results.seconds)} of training"
    yield f"results: {folder / 'results.json'}"


def figure_text(value: float | None) -> str:
    """A figure with as many digits as are worth reading."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def statistic_text(statistic: Statistic | None) -> str:
    """A mean and its deviation over the seeds, if there are several."""
    if statistic is None or statistic.deviation is None:
        return figure_text(None if statistic is None else statistic.mean)
    return f"{figure_text(statistic.mean)} ± {figure_text(statistic.deviation)}"


def operations_text(operations: int) -> str:
    """Floating-point operations in billions, or in millions if they are few."""
    return f"{operations / 1e9:.2f} GFLOP" if operations >= 1e8 else f"{operations / 1e6:.3g} MFLOP"


def duration_text(seconds: float) -> str:
    """A duration in the units that people use."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
