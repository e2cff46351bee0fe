"""Steps of Adam for the few numbers that a rule learns itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_FIRST = 0.9
_SECOND = 0.999
_EPSILON = 1e-8


def fresh(tasks: int, value: float = 0.0) -> torch.Tensor:
    """[4, T]: the learned numbers, the two moments, and the number of steps, all in one tensor that is easily saved."""
    learned = torch.zeros(4, tasks, dtype=torch.float64)
    learned[0] = value
    return learned


def descend(
    learned: torch.Tensor, places: Sequence[int], gradient: torch.Tensor, *, rate: float, decay: float = 0.0
) -> None:
    """One step of Adam on some of the numbers, in place.

    :param learned: [4, T], from `fresh`.
    :param places: whose numbers; the others, and their moments, stay as they are.
    :param gradient: [P].
    :param decay: what part of the numbers is added to their gradients.
    """
    at = list(places)
    value, first, second, count = learned[:, at]
    gradient = gradient + decay * value
    first = _FIRST * first + (1 - _FIRST) * gradient
    second = _SECOND * second + (1 - _SECOND) * gradient**2
    count = count + 1
    step = first / (1 - _FIRST**count) / ((second / (1 - _SECOND**count)).sqrt() + _EPSILON)
    learned[:, at] = torch.stack([value - rate * step, first, second, count])
