"""Results as `recon train` writes them, of figures that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from recon_cli.artifacts.method import JOINT
from recon_cli.artifacts.training import Criterion, Results, Statistic, Statistics

Values = Mapping[str, Sequence[float] | float | None]
"""`task/name` -> its value of each seed, or one of all; None where it is not known."""


def statistic(values: Sequence[float] | None) -> Statistic | None:
    if values is None:
        return None
    return Statistic(mean=fmean(values), deviation=stdev(values) if len(values) > 1 else None, values=tuple(values))


def statistics(figures: Values, seeds: int = 1) -> Statistics:
    """Statistics of these figures; a single number is that of every seed."""
    found: Statistics = {}
    for name, values in figures.items():
        task, _, of_task = name.partition("/")
        found.setdefault(task, {})[of_task] = statistic([values] * seeds if isinstance(values, float) else values)
    return found


def criteria(figures: Values, lower: Sequence[str] = ()) -> tuple[Criterion, ...]:
    """Criteria of these names; lower is better for losses and those that `lower` names."""
    return tuple(
        Criterion(
            task=name.partition("/")[0],
            name=name.partition("/")[2],
            better="lower" if name in lower or name.endswith("/loss") else "higher",
        )
        for name in figures
    )


def results(figures: Values, *, lower: Sequence[str] = (), best: Values | None = None, **parts: object) -> Results:
    """Results with these figures at the last evaluation, and others at the best if they are given."""
    lengths = [len(values) for values in figures.values() if isinstance(values, Sequence)]
    seeds = max(lengths, default=1)
    content: dict[str, object] = {
        "tasks": tuple(dict.fromkeys(name.partition("/")[0] for name in figures)),
        "single_task": False,
        "seeds": tuple(range(seeds)),
        "criteria": criteria(figures, lower),
        "last": statistics(figures, seeds),
        "best": statistics(figures if best is None else best, seeds),
        "best_by": "loss",
        "parameters": 1 << 18,
        "bytes": 1 << 20,
        "operations": 1000,
        "seconds": 2.0,
        "steps": 10,
        "split_layers": 0,
        "method": JOINT,
        "trainings": (),
    }
    return Results(**{**content, **parts})  # type: ignore[arg-type]
