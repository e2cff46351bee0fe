"""Which of the evaluations is the best."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from recon_cli.artifacts.training import Criterion, Figures
from recon_cli.config.schema import LOSS
from recon_cli.errors import ReconError, did_you_mean, listed, quoted


class BestBy:
    """What makes an evaluation better than another: a figure of one task, or its mean over the tasks that have it.

    A network of which none of the tasks has it is judged by their losses.

    :param name: `loss` or a metric's name, or `task/name`.
    :param criteria: those of all tasks.
    :param tasks: the tasks of the network.
    :ivar higher: whether higher is better.
    :raises ReconError: if there is no such figure, or its tasks disagree on what is better.
    """

    def __init__(self, name: str, criteria: Sequence[Criterion], tasks: Sequence[str]) -> None:
        task, slash, of_task = name.rpartition("/")
        found = [
            each for each in criteria if (each.name == of_task and each.task == task if slash else each.name == name)
        ]
        if not found:
            known = sorted({each.name for each in criteria} | {f"{each.task}/{each.name}" for each in criteria})
            raise ReconError(
                f"`train.best` names {quoted(name)}, which is not evaluated",
                did_you_mean(name, known) or f"name one of {listed(known, len(known))}",
            )
        own = [each for each in criteria if each.task in tasks]
        found = [each for each in own if each in found] or [each for each in own if each.name == LOSS]
        if len({each.better for each in found}) > 1:
            raise ReconError(
                f"`train.best` names {quoted(name)}, of which some tasks want high values and others low ones",
                "name that of one task: `task/metric`",
            )
        self._of = [(each.task, each.name) for each in found]
        self.higher = found[0].better == "higher"

    def check_awaited(self, mode: str | None) -> None:
        """Refuse a schedule that follows the evaluations and takes better ones for worse.

        :param mode: `min` or `max`, which values it waits for; None if it follows none.
        :raises ReconError: if these are the worse ones.
        """
        better = "max" if self.higher else "min"
        if mode not in (None, better):
            raise ReconError(
                f"the schedule follows `train.best`, of which {'high' if self.higher else 'low'} values are good, but "
                f"its `mode` is {quoted(mode)}",
                f"set `kwargs: {{mode: {better}}}` under `scheduler`",
            )

    def value(self, figures: Figures) -> float | None:
        """What an evaluation came to; None where nothing can be said of it."""
        values = [figures[task][name] for task, name in self._of if task in figures]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether an evaluation is better than an earlier one, if there is one."""
        if value is None or than is None:
            return than is None
        return value > than if self.higher else value < than
