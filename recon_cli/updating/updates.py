"""Update rules in somebody's own training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from recon_cli.errors import ReconError
from recon_cli.tasks import check_tasks
from recon_cli.updating.in_loop import InLoop, method_of
from recon_cli.updating.losses import check_differentiable, losses_by_task


class Updates(InLoop):
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
        super().__init__(model, check_tasks(tasks), method_of(method), seed=seed)
        self._watch(measured=False)

    def backward(self, losses: Mapping[str, torch.Tensor | None], *, scale: float = 1.0) -> None:
        """Add the update to `.grad`.

        :param losses: a scalar for each task; a task without labels in this batch is left out, or None.
        :param scale: what the losses are multiplied by for the backward passes, as a gradient scaler asks for.
        :raises NonFiniteError: if a loss or a gradient that the rule looks at is NaN or infinite.
        :raises ReconError: if a task is not known, none has a loss, or the rule can do nothing with a loss.
        """
        try:
            given = losses_by_task(losses, self.tasks)
            check_differentiable(given, self.tasks)
            self._stepper.backward(given, measured=False, scale=scale)
        finally:
            # A loop may pass over a step that failed.
            self._watch(measured=False)

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
