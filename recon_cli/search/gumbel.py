"""Draws from categorical distributions that can be differentiated: the Gumbel-softmax (Jang et al., ICLR 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch

Annealing = Callable[[float, float, float], float]
"""The temperature after a part of a search, 0 to 1, between its first and its last one."""


def gumbel_noise(shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers from Gumbel(0, 1).

    They are drawn on the CPU, so that one seed gives the same ones on every device.
    """
    return -torch.empty(shape).exponential_().log()


def relaxed(logits: torch.Tensor, noise: torch.Tensor, temperature: float, *, hard: bool) -> torch.Tensor:
    """softmax((logits + noise) / temperature), over the last dimension.

    Its highest entry is at i with the probability softmax(logits)_i, whatever the temperature.

    :param hard: give one-hot vectors, of which the gradient is that of the softmax (straight-through).
    """
    soft = ((logits + noise.to(logits.device)) / temperature).softmax(-1)
    if not hard:
        return soft
    chosen = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    # In this order the entries are zeros and ones without any rounding.
    return chosen + (soft - soft.detach())


def linear(first: float, last: float, part: float) -> float:
    """A temperature that falls in a straight line."""
    return first + (last - first) * part


def inverse_root(first: float, last: float, part: float) -> float:
    """A temperature that falls as 1 / sqrt(1 + k x), with k so that it ends where it should."""
    return float(first / (1 + ((first / last) ** 2 - 1) * part) ** 0.5)
