"""A stage of a search that draws: warm-up, annealing of the temperature, and the resource loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from recon_cli.artifacts.search import CopyChoices, ExpectedResource, SearchStage
from recon_cli.config.schema import SearchSection
from recon_cli.errors import ReconError, number
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.targets import user_code
from recon_cli.search.gumbel import Annealing
from recon_cli.search.learning import Learning, Material
from recon_cli.search.resources import Resources
from recon_cli.search.sampled import Sampled


@dataclass(frozen=True)
class Sampling:
    """How a method draws and learns.

    :ivar in_turn: whether alpha is learned on validation data and the weights on training data, in turn; else both by
        one step on training data.
    :ivar first: the first temperature, and `last` the last one, between which `annealing` leads.
    :ivar warm_up: the part of the steps, at the beginning, in which alpha is not learned and every task has copies of
        its own.
    :ivar resource_weight: of the resource loss.
    """

    in_turn: bool
    alpha_lr: float
    alpha_decay: float
    annealing: Annealing
    first: float
    last: float
    warm_up: float
    resource_weight: float

    def given(self, section: SearchSection) -> Sampling:
        """The same with what a config says.

        :raises ReconError: if the temperature would rise.
        """
        own = section.sampling
        asked = {"alpha_lr": section.alpha_lr}
        if own is not None:
            asked |= {"first": own.temperature_start, "last": own.temperature_end}
            asked |= {"warm_up": own.warm_up, "resource_weight": own.resource_weight}
        found = replace(self, **{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]  # all of them are numbers
        if found.last > found.first:
            raise ReconError(
                f"`search.sampling`: the temperature would rise, from {number(found.first)} to {number(found.last)}",
                "give a `temperature_start` that is no lower than `temperature_end`",
            )
        return found

    def temperature(self, step: int, steps: int) -> float | None:
        """The temperature of a step; None in the warm-up.

        :param step: counted from 0.
        :param steps: of the stage.
        """
        begin = int(self.warm_up * steps)
        if step < begin:
            return None
        return self.annealing(self.first, self.last, (step - begin) / max(1, steps - 1 - begin))


class SampledStage(Learning):
    """Learns by what probabilities the copies of modules are drawn.

    The loss is the mean of the tasks' losses; for alpha, the resource loss is added.

    :param steps: that the stage will have.
    :raises ReconError: if there is to be a resource loss, but there are too many tasks for it.
    """

    def __init__(
        self, material: Material, supernet: Sampled, sampling: Sampling, resources: Resources, steps: int
    ) -> None:
        super().__init__(material, supernet, alpha_lr=sampling.alpha_lr, alpha_decay=sampling.alpha_decay)
        if sampling.resource_weight and not supernet.can_expect:
            raise ReconError(
                f"the expected {resources.unit} of a branching can be computed for up to {supernet.most_tasks} tasks, "
                f"and there are {len(supernet.tasks)}",
                "set `search.sampling.resource_weight: 0`",
            )
        self._sampled = supernet
        self._sampling, self._resources, self._steps = sampling, resources, steps

    def advance(self) -> None:
        """Update alpha and the weights; in the warm-up, the weights alone."""
        self._sampled.temperature = self._sampling.temperature(self.step, self._steps)
        is_warm = self._sampled.temperature is not None
        if self._sampling.in_turn or not is_warm:
            if is_warm:
                self._learn_alpha()
            self._learn_weights()
        else:
            with self._sampled.with_alpha() as alphas:
                scale = self._weights.scale
                self._learn_weights()
                self._step_alpha(alphas, scale)
        self.step += 1

    def record(self) -> SearchStage:
        """What was learned."""
        together, tables = self._sampled.together(), self._sampled.tables()
        return SearchStage(
            steps=self.step,
            sampled=tuple(
                CopyChoices(
                    module=name,
                    readers=self._sampled.readers(place),
                    probabilities=_rows(tables[place]),
                    chosen=tuple(copy + 1 for copy in tables[place].argmax(1).tolist()),
                    together=_rows(together[place]),
                )
                for place, name in enumerate(self._sampled.names)
            ),
            resource=ExpectedResource(
                unit=self._resources.unit,
                weight=self._sampling.resource_weight,
                shared=self._resources.shared,
                expected=float(self._resources.total(self._sampled.expected_copies()))
                if self._sampled.can_expect
                else None,
            ),
        )

    def _penalty(self) -> torch.Tensor | None:
        if not self._sampling.resource_weight:
            return None
        copies = self._sampled.expected_copies()
        return self._sampling.resource_weight * self._resources.loss(copies, len(self._sampled.tasks)).float()

    def _backward(self, batch: Batch, share: float) -> bool:
        losses = self._losses(batch, range(len(self._tasks)))
        learns_alpha = any(alpha.requires_grad for alpha in self._sampled.alphas)
        with user_code("the backward pass"):
            (self._scaled(losses, self._penalty() if learns_alpha else None) * share).backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        return True


def _rows(table: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    # Sums of probabilities may be above one by rounding.
    return tuple(tuple(row) for row in table.detach().clamp(0, 1).tolist())
