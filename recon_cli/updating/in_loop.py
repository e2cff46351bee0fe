"""Steps by an update rule in somebody else's training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from recon_cli.artifacts.document import first_problem
from recon_cli.artifacts.method import Method
from recon_cli.errors import ReconError, listed
from recon_cli.updating.losses import losses_by_task
from recon_cli.updating.stepper import NOTHING_MEASURED, Stepper
from recon_cli.updating.ways.way import Measured


class InLoop:
    """What `Updates` and `ConflictProfiler` have in common.

    :param model: the network, or DistributedDataParallel around it.
    :param tasks: the names of its tasks.
    :param method: the update rule, and what it sees.
    :param measured: what is measured on some steps.
    :param seed: of rules that draw random numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[str],
        method: Method,
        *,
        measured: Measured = NOTHING_MEASURED,
        seed: int = 0,
    ) -> None:
        self.tasks = tuple(tasks)
        self._parallel = model if isinstance(model, nn.parallel.DistributedDataParallel) else None
        self._stepper = Stepper(unwrapped(model), tasks, method, measured=measured, seed=seed, averaged=True)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the rule needs: `new losses` asks for `after_step`, `epochs` for `after_epoch`."""
        return self._stepper.needs

    @property
    def notes(self) -> Mapping[str, int]:
        """What the rule had to say of steps, such as that it left nothing of the gradients, and of how many."""
        return self._stepper.notes

    def after_step(self, losses: Callable[[], Mapping[str, torch.Tensor | None]]) -> None:
        """Let the rule learn from the losses of the same batch after the optimizer's step (FAMO).

        :param losses: runs the network on the same batch, and gives the losses as `backward` takes them. It is called
            only if the rule needs it: without a gradient, with the random numbers that the first pass had, and so that
            running statistics and random states stay as they are.
        """
        self._stepper.after_step(lambda: losses_by_task(losses(), self.tasks))

    def after_epoch(self) -> None:
        """Let the rule learn from an epoch (DWA)."""
        self._stepper.after_epoch()

    def _watch(self, *, measured: bool) -> None:
        """Prepare for the forward pass of the next step."""
        self._stepper.watch(measured=measured)
        if self._parallel is not None:
            # A step with a backward pass for each task averages its gradients itself.
            self._parallel.require_backward_grad_sync = self._stepper.is_plain and not measured


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def method_of(method: str | Mapping[str, Any]) -> Method:
    """A method from what a config may hold: a rule's name, or a mapping of its settings.

    :raises ReconError: if it cannot be set so.
    """
    unknown = [name for name in method if name not in Method.model_fields] if isinstance(method, Mapping) else []
    if unknown:
        known = listed(Method.model_fields, len(Method.model_fields))
        raise ReconError(
            f"a method has no setting {listed(unknown)}; it has {known}",
            "what a rule itself takes goes under `parameters`",
        )
    try:
        return Method.model_validate(method)
    except ValidationError as error:
        raise ReconError(f"the method cannot be set so: {first_problem(error)}") from None
