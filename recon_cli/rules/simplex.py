"""Convex quadratic programs over weights of gradients that are not negative and add up to one."""

from __future__ import annotations

import torch

_ENOUGH = 1e-13
"""How far a slope may still be below the others; rounding takes more than this."""
_LONGEST = 1e8
"""Gradients that are longer than this, in units of the shortest, count as so long: doubles hold no more beside it."""


def costs_of(norms: torch.Tensor) -> torch.Tensor:
    """What a unit of each unit gradient takes of the sum of weights, relative to the shortest gradient, [A].

    In units of unit gradients all numbers are of one size, also where the gradients are not.
    """
    return (norms.min() / norms).clamp(min=1 / _LONGEST)


def shortest_mean(cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """The weights w >= 0 with sum(w) = 1 that minimise |sum_i w_i g_i|, [A]."""
    parts = minimise(cosines, torch.zeros_like(norms), costs_of(norms))
    weights = parts / norms
    return weights / weights.sum()


def minimise(
    quadratic: torch.Tensor, linear: torch.Tensor, costs: torch.Tensor, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Minimise 0.5 x'Qx + b'x over x >= 0 with a'x = 1, by an active set, as Wolfe does for b = 0.

    :param quadratic: Q, [A, A], positive semidefinite, in float64, with entries of about one.
    :param linear: b, [A].
    :param costs: a, [A], above zero.
    :param start: to begin with, [A]; default: all parts alike.
    :returns: the minimising x, [A]; of several, any.
    """
    parts = torch.full_like(costs, 1 / float(costs.sum())) if start is None else start
    free, lowest = parts > 0, torch.inf
    while True:
        found, kept = _descended(quadratic, linear, costs, parts, free)
        slope = quadratic @ found + linear
        value = float(found @ (slope + linear))
        # Every round strictly lowers the value, as far as rounding lets it.
        if value >= lowest:
            return parts
        parts, lowest = found, value
        # How far each slope is above what it is where nothing can be gained any more.
        excess = slope - (parts @ slope) * costs
        entering = int(excess.argmin())
        if kept[entering] or excess[entering] >= -_ENOUGH * (1 + slope.abs().max()):
            return parts
        free = kept.clone()
        free[entering] = True


def _descended(
    quadratic: torch.Tensor, linear: torch.Tensor, costs: torch.Tensor, parts: torch.Tensor, free: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Go to the minimum over the free parts, giving up those that would become negative on the way."""
    while True:
        target = _minimum_of_free(quadratic, linear, costs, free)
        below = free & (target <= 0)
        if not bool(below.any()):
            return target, free
        # One that is zero already is given up at once. A single part is never below zero, so some are left.
        steps = torch.where(below, torch.where(parts > 0, parts / (parts - target), 0), torch.inf)
        first = int(steps.argmin())
        parts = parts + float(steps[first]) * (target - parts)
        free = free.clone()
        free[first] = False
        parts = torch.where(free, parts.clamp(min=0), 0)
        parts = parts / (costs @ parts)


def _minimum_of_free(
    quadratic: torch.Tensor, linear: torch.Tensor, costs: torch.Tensor, free: torch.Tensor
) -> torch.Tensor:
    places = free.nonzero().flatten()
    number = len(places)
    system = quadratic.new_zeros(number + 1, number + 1)
    system[:number, :number] = quadratic[places][:, places]
    system[number, :number] = system[:number, number] = costs[places]
    right = torch.cat([-linear[places], costs.new_ones(1)])
    solution, failed = torch.linalg.solve_ex(system, right)
    if bool(failed) or not (system @ solution - right).abs().max() <= _MISSED * (1 + solution.abs().max()):
        # Gradients that depend on each other; of all solutions, this is the shortest.
        solution = torch.linalg.lstsq(system, right.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    target = torch.zeros_like(linear)
    target[places] = solution[:number]
    return target


_MISSED = 1e-12
