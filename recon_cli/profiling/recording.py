"""What is measured on some steps of a training, and where it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recon_cli.gradients.engine import LayerGrams
from recon_cli.profiling.cosine_log import CosineLog
from recon_cli.profiling.measure import Measurement
from recon_cli.profiling.sampling import Sampling
from recon_cli.updating.ways.way import Measured


class Recording:
    """Counts the conflicts of the steps that are sampled.

    :param measurement: is filled; if a step fails, it holds all steps before.
    :param sampling: which steps are measured.
    :param log: takes the cosines of every measured step, if they are to be kept.
    :param memory_limit: bytes that the gradients of several tasks may take at a time; see `GramEngine`.
    :ivar tasks: the indices of the tasks that had a label in some measured step.
    :ivar saw_all: whether all of them had one in some measured step.
    """

    def __init__(
        self,
        measurement: Measurement,
        sampling: Sampling,
        log: CosineLog | None = None,
        memory_limit: int | None = None,
    ) -> None:
        self.measurement = measurement
        self.sampling = sampling
        self.log = log
        self.tasks: set[int] = set()
        self._memory_limit = memory_limit
        self.saw_all = False

    @property
    def measured(self) -> Measured:
        """The gradients of all layers and features that the settings name."""
        return Measured(self.measurement.tallied, self.measurement.settings.features, self._memory_limit)

    def includes(self, step: int) -> bool:
        """Whether a step, counted from 0, is measured."""
        return self.sampling.includes(step)

    @property
    def wants_halves(self) -> bool:
        """Whether the halves of the batch of the next measured step are to be measured as well."""
        every = self.measurement.settings.halves_every
        return every is not None and self.measurement.iterations % every == 0

    def record(self, found: LayerGrams, step: int, present: Sequence[int], on_halves: LayerGrams | None = None) -> None:
        """Count one step.

        :param present: the indices of the tasks that have a loss on any rank.
        :param on_halves: what was measured on the halves of its batch, if that was done.
        :raises ReconError: if no layer is shared, or a feature is not.
        """
        measurement = self.measurement
        has_all = len(present) == len(measurement.tasks)
        if has_all:
            measurement.check_features(found)
        stage = self.sampling.stage(step, measurement.settings.stages)
        rows = measurement.record(found, stage, present, on_halves)
        if self.log is not None:
            self.log.append(rows, step, stage)
        if has_all and not self.saw_all:
            # Only now is it certain that no two tasks share a layer.
            measurement.check_shared()
            self.saw_all = True
        self.tasks |= set(present)

    def state(self) -> dict[str, Any]:
        """What was counted so far, as plain data and tensors."""
        if self.log is not None:
            # A state never counts on cosines that are not on disk.
            self.log.flush()
        return {"tasks": sorted(self.tasks), "saw_all": self.saw_all, "measurement": self.measurement.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another recording of the same network and settings was.

        :raises ReconError: if it was one of another network or of other settings.
        """
        self.measurement.restore(state["measurement"])
        self.tasks, self.saw_all = set(state["tasks"]), state["saw_all"]
        if self.log is not None:
            self.log.restore(self.measurement.iterations)
