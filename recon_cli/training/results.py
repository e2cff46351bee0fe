"""What trainings of the same kind came to together."""

from __future__ import annotations

from collections.abc import Sequence

from recon_cli.artifacts.training import Evaluation, Results, Statistic, Statistics, Training
from recon_cli.training.request import TrainRequest


def results_of(trainings: Sequence[Training], request: TrainRequest) -> Results:
    """The figures of every task over the seeds, and the size and the cost of all networks of a seed together.

    :param trainings: by seed, and for single tasks by task.
    """
    first = [training for training in trainings if training.seed == request.all_seeds[0]]
    operations = [training.operations for training in first]
    return Results(
        tasks=request.config.config.task_names,
        single_task=request.single_task,
        seeds=request.all_seeds,
        criteria=tuple(criterion for training in first for criterion in training.criteria),
        last=_over_seeds(trainings, request.all_seeds, [training.last for training in trainings]),
        best=_over_seeds(trainings, request.all_seeds, [training.best for training in trainings]),
        best_by=first[0].best_by,
        parameters=sum(training.parameters for training in first),
        bytes=sum(training.bytes for training in first),
        operations=None if None in operations else sum(number for number in operations if number is not None),
        seconds=sum(training.seconds for training in trainings) / len(request.all_seeds),
        steps=first[0].steps,
        split_layers=first[0].split_layers,
        method=request.rule,
        trainings=tuple(trainings),
    )


def _over_seeds(
    trainings: Sequence[Training], seeds: Sequence[int], evaluations: Sequence[Evaluation | None]
) -> Statistics:
    found: dict[int, dict[str, dict[str, float | None]]] = {seed: {} for seed in seeds}
    for training, evaluation in zip(trainings, evaluations, strict=True):
        if evaluation is not None:
            found[training.seed].update(evaluation.figures)
    first = found[seeds[0]]
    return {
        task: {name: _statistic([found[seed][task][name] for seed in seeds]) for name in figures}
        for task, figures in first.items()
    }


def _statistic(values: Sequence[float | None]) -> Statistic | None:
    known = [value for value in values if value is not None]
    return Statistic.of(known) if len(known) == len(values) else None
