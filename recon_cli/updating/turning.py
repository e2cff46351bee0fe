"""How rotations follow the gradients of a feature: steps of Adam in the tangent space at where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from recon_cli.experiment.ranks import Ranks
from recon_cli.updating.rotations import RotatedModel

_FIRST = 0.9
_SECOND = 0.999


@dataclass(frozen=True)
class _Moments:
    """What Adam has learned about one rotation.

    :ivar steps: how many steps it has made.
    :ivar first: the mean of the gradients, [d, d].
    :ivar second: the root of the mean of their squares, [d, d]; these would leave the range of single precision.
    """

    steps: int
    first: torch.Tensor
    second: torch.Tensor


class Turning:
    """Turns the feature for each task so that the tasks' gradients come to point in one direction.

    With G_k[n] = dL_k/dZ[n] at position n and V = sum_k w_k G_k the update of Z, both held constant, R_k follows the
    gradient of -sum_n <R_k' dL_k/dr_k[n], V[n]>. Where R_k becomes R_k exp(A), with A' = -A, that is V' G_k - G_k' V
    with respect to A. So a rotation stays one, and no gradient of it is ever computed. Adam is without epsilon: neither
    the gradients' size nor the scale of the update changes anything.

    :param model: whose rotations are turned.
    :param tasks: the names of the tasks.
    :param rate: the learning rate; 0 for rotations that stay where they are.
    """

    def __init__(self, model: RotatedModel, tasks: Sequence[str], rate: float) -> None:
        self._model = model
        self._tasks = tasks
        self._rate = rate
        self._moments: dict[str, _Moments] = {}

    def turn(
        self, rows: Mapping[int, torch.Tensor], weights: torch.Tensor, turned: Sequence[int], ranks: Ranks
    ) -> None:
        """Make one step.

        :param rows: the gradients of that part of Z which is this rank's, by task, [positions, d]; their sums over the
            ranks are the tasks' gradients.
        :param weights: of the gradients in the update, [T].
        :param turned: the tasks whose rotations make a step, the same on all ranks.
        :param ranks: the processes that train the network together.
        """
        if self._rate == 0:
            return
        device = next(iter(rows.values())).device
        # Products would be rounded to half precision in an autocast context that is still open.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            update = torch.stack([float(weights[task]) * row for task, row in rows.items()]).sum(0)
            nothing = update.new_zeros(update.shape[-1], update.shape[-1])
            products = [update.T @ rows[task] if task in rows else nothing.clone() for task in turned]
            ranks.sum(products)
            for task, product in zip(turned, products, strict=True):
                self._step(self._tasks[task], product - product.T)

    def state(self) -> dict[str, Any]:
        """What Adam has learned; plain data and tensors."""
        return {task: vars(moments).copy() for task, moments in self._moments.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another one was; the rotations themselves are the network's."""
        self._moments = {task: _Moments(**moments) for task, moments in state.items()}

    def _step(self, task: str, slope: torch.Tensor) -> None:
        zero = torch.zeros_like(slope)
        known = self._moments.get(task) or _Moments(0, zero, zero)
        steps = known.steps + 1
        first = _FIRST * known.first.to(slope) + (1 - _FIRST) * slope
        second = torch.hypot(_SECOND**0.5 * known.second.to(slope), (1 - _SECOND) ** 0.5 * slope)
        self._moments[task] = _Moments(steps, first, second)
        correction = (1 - _SECOND**steps) ** 0.5 / (1 - _FIRST**steps)
        step = torch.where(second > 0, first / second, zero) * correction
        turned = torch.linalg.matrix_exp(-self._rate * step)
        before = self._model.rotation(task)
        if before is not None:
            turned = before.to(turned) @ turned
        # One step towards the nearest orthogonal matrix, so that rounding does not add up.
        self._model.rotate(task, 1.5 * turned - 0.5 * turned @ turned.T @ turned)
