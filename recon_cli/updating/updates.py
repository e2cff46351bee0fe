"""Update rules in somebody's own training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from recon_cli.artifacts.document import first_problem
from recon_cli.artifacts.method import Method
from recon_cli.errors import ReconError
from recon_cli.tasks import check_tasks
from recon_cli.updating.losses import check_differentiable, losses_by_task
from recon_cli.updating.stepper import Stepper


class Updates:
    """Trains by an update rule, while somebody else's loop does the rest.

        updates = Updates(model, ["segmentation", "depth"], "gradops")
        for images, targets in loader:
            outputs = model(images)
            losses = {"segmentation": ..., "depth": ...}
            optimizer.zero_grad()
            updates.backward(losses)                # instead of (sum(losses) / len(losses)).backward()
            optimizer.step()

    :param model: the network, or DistributedDataParallel around it; it is not changed, but for hooks.
    :param tasks: the names of its tasks.
    :param method: a rule's name (`recon methods` lists them), or a mapping with its parameters and what it sees, such
        as `{"name": "gradops", "parameters": {"alpha": -1.0}, "per": "layer"}` (docs/methods.md).
    :param seed: of rules that draw random numbers, which leave the user's generators alone.
    :raises ReconError: if the tasks, the rule or its parameters are not known, or the rule cannot be applied so.
    """

    def __init__(
        self, model: nn.Module, tasks: Sequence[str], method: str | Mapping[str, Any] = "joint", *, seed: int = 0
    ) -> None:
        self.tasks = check_tasks(tasks)
        self._parallel = model if isinstance(model, nn.parallel.DistributedDataParallel) else None
        module = model if self._parallel is None else self._parallel.module
        self._stepper = Stepper(module, self.tasks, method_of(method), seed=seed, averaged=True)
        if self._parallel is not None:
            # Rules that see gradients average them themselves.
            self._parallel.require_backward_grad_sync = self._stepper.is_plain
        self._stepper.watch(measured=False)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the rule needs: `new losses` asks for `after_step`, `epochs` for `after_epoch`."""
        return self._stepper.needs

    @property
    def notes(self) -> Mapping[str, int]:
        """What the rule had to say of steps, such as that it left nothing of the gradients, and of how many."""
        return self._stepper.notes

    def backward(self, losses: Mapping[str, torch.Tensor | None], *, scale: float = 1.0) -> None:
        """Add the update to `.grad`.

        :param losses: a scalar for each task; a task without labels in this batch is left out, or None.
        :param scale: what the losses are multiplied by for the backward passes, as a gradient scaler asks for.
        :raises NonFiniteError: if a loss or a gradient that the rule looks at is NaN or infinite.
        :raises ReconError: if a task is not known, none has a loss, or the rule can do nothing with a loss.
        """
        given = losses_by_task(losses, self.tasks)
        check_differentiable(given, self.tasks)
        try:
            self._stepper.backward(given, measured=False, scale=scale)
        finally:
            # A loop may pass over a step that failed.
            self._stepper.watch(measured=False)

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

    def state_dict(self) -> dict[str, Any]:
        """What the rule has learned, and the state of its random numbers; plain data and tensors."""
        return {"tasks": list(self.tasks), **self._stepper.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one of the same network and method was.

        :raises ReconError: if it was one of another network or method.
        """
        if set(state) != set(self.state_dict()):
            raise ReconError("the saved state is not one of Updates")
        self._stepper.restore(state)


def method_of(method: str | Mapping[str, Any]) -> Method:
    """A method from what a config may hold: a rule's name, or a mapping of its settings.

    :raises ReconError: if it cannot be set so.
    """
    try:
        return Method.model_validate(method)
    except ValidationError as error:
        raise ReconError(f"the method cannot be set so: {first_problem(error)}") from None
