"""How good a network is at each task, on the validation data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice

import torch
from torch import nn

from recon_cli.artifacts.training import Criterion, Figures
from recon_cli.config.schema import LOSS, Config, MetricSection, TaskSection
from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import Experiment
from recon_cli.experiment.losses import Task, labels_of, task_outputs
from recon_cli.experiment.ranks import Ranks
from recon_cli.experiment.targets import user_code
from recon_cli.experiment.validation import ValidationData
from recon_cli.metrics.lookup import find_metric
from recon_cli.metrics.metric import Metric
from recon_cli.network_states import leaving_no_trace
from recon_cli.outputs import items_of


class Evaluator:
    """Evaluates a network, which stays as it is.

    :param config: names the validation data and the metrics.
    :param ranks: the processes that share the work; each evaluates the network with the buffers of the first.
    :ivar known: what can be known of every task: its loss, then its metrics.
    :ivar criteria: those of them that are of a task that takes part.
    :raises ReconError: if a metric cannot be made, or the network cannot be evaluated.
    """

    def __init__(self, config: Config, experiment: Experiment, ranks: Ranks) -> None:
        assert config.validation is not None
        self._experiment = experiment
        self._sections = [task.metrics for task in config.tasks]
        self._ranks = ranks
        self._data = ValidationData(config.validation, config.data, experiment.device, ranks)
        # A network that has no such mode is refused before it is trained.
        with _evaluating(experiment.model):
            pass
        of_task = [tuple(criteria_of(task)) for task in config.tasks]
        self.known = tuple(chain.from_iterable(of_task))
        self.criteria = tuple(chain.from_iterable(of_task[index] for index in experiment.active))

    def evaluate(self) -> Figures:
        """The mean loss per item, and the metrics, of each task that takes part; None where nothing was labelled.

        :raises ReconError: if the network, the data, a loss or a metric fails.
        """
        self._ranks.copy_first(self._experiment.model.buffers())
        names = [task.name for task in self._experiment.tasks]
        return {names[index]: figures.together(self._ranks) for index, figures in self._count(self._data).items()}

    def try_out(self) -> None:
        """Evaluate the first batch, and forget it: what a metric cannot take should not show after hours of training.

        :raises ReconError: if the network, the data, a loss or a metric fails.
        """
        # The passes of a sharded network wait for each other, and not every rank may have a batch.
        if not self._experiment.is_sharded:
            self._count(islice(self._data, 1))

    def _count(self, batches: Iterable[Batch]) -> dict[int, _TaskFigures]:
        experiment, ranks = self._experiment, self._ranks
        counts = {index: _TaskFigures(experiment.tasks[index], self._sections[index]) for index in experiment.active}
        model = experiment.model
        # In the passes of a sharded network the others wait for a block of it, and not for an agreement.
        passes = ranks.apart() if experiment.is_sharded else ranks.together()
        with passes, torch.no_grad(), leaving_no_trace(model), _evaluating(model):
            for batch in batches:
                labels = labels_of(batch, experiment.tasks, experiment.active)
                if not labels:
                    continue
                with experiment.optimization.forward():
                    outputs = task_outputs(model, experiment.tasks, batch, labels)
                    for index, label in labels.items():
                        counts[index].add(outputs[index], label)
            if experiment.is_sharded and self._data.filler is not None:
                # The others need this rank's shards for their last batch.
                with experiment.optimization.forward():
                    task_outputs(model, experiment.tasks, self._data.filler, ())
        return counts


class _TaskFigures:
    """What is counted of one task."""

    def __init__(self, task: Task, sections: list[MetricSection]) -> None:
        self._task = task
        self._metrics = {section.title: _make(task.name, section) for section in sections}
        self._losses: list[torch.Tensor] = []
        self._items = 0

    def add(self, output: object, label: object) -> None:
        """Count a batch."""
        items = items_of(label)
        self._losses.append(self._task.loss_on(output, label).double() * items)
        self._items += items
        for title, metric in self._metrics.items():
            if not isinstance(output, torch.Tensor) or not isinstance(label, torch.Tensor):
                raise ReconError(
                    f"the metric {quoted(title)} of task {quoted(self._task.name)} takes tensors, but the output is a "
                    f"{quoted(type(output).__name__)} and the label a {quoted(type(label).__name__)}"
                )
            # What a metric computes is not to be rounded as the network's products are.
            with _named(self._task.name, title), torch.autocast(output.device.type, enabled=False):
                metric.update(output, label)

    def together(self, ranks: Ranks) -> dict[str, float | None]:
        """The figures over all ranks."""
        loss = float(torch.stack(self._losses).sum()) if self._losses else 0.0
        shared = ranks.share((loss, self._items, {title: metric.state() for title, metric in self._metrics.items()}))
        items = sum(items for _, items, _ in shared)
        figures = {LOSS: math.fsum(loss for loss, _, _ in shared) / items if items else math.nan}
        with ranks.together():
            for title, metric in self._metrics.items():
                with _named(self._task.name, title):
                    metric.merge([states[title] for _, _, states in shared])
                    figures[title] = metric.compute()
        return {title: value if math.isfinite(value) else None for title, value in figures.items()}


def criteria_of(task: TaskSection) -> Iterator[Criterion]:
    """What an evaluation says of a task: its loss, then its metrics.

    :raises ReconError: if a metric cannot be made.
    """
    yield Criterion(task=task.name, name=LOSS, better="lower")
    for section in task.metrics:
        better = "higher" if _make(task.name, section).HIGHER_IS_BETTER else "lower"
        yield Criterion(task=task.name, name=section.title, better=better)  # type: ignore[arg-type]  # mypy widens it


def _make(task: str, section: MetricSection) -> Metric:
    with _named(task, section.title):
        return find_metric(section.target, section.kwargs, section.better)


@contextmanager
def _named(task: str, title: str) -> Iterator[None]:
    """Say of which task a metric is that fails."""
    with user_code(f"the metric {quoted(title)} of task {quoted(task)}"):
        try:
            yield
        except ReconError as error:
            raise ReconError(f"task {quoted(task)}, metric {quoted(title)}: {error.message}", error.hint) from error


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each of its modules back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    with user_code("the model's change to evaluation mode"):
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
