"""The gradient of a penalty on the tasks' gradients, by differentiating them a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from recon_cli.errors import ReconError
from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.products import inner_products

Slopes = Callable[[torch.Tensor], torch.Tensor]
"""From the Gram matrices of the groups, [G, P, P] in float64 on the CPU, to M of each: dP / dg_i = sum_j M_ij g_j."""

TaskGradients = list[list[torch.Tensor | None]]
"""For each of P tasks, the gradient of each parameter, which can be differentiated; None where it does not reach."""


def task_gradients(losses: Sequence[torch.Tensor | None], parameters: Sequence[torch.Tensor]) -> TaskGradients:
    """The gradients of each loss; the graph is kept.

    :param losses: P scalars; None for a task that other ranks alone have.
    """
    return [
        [None] * len(parameters)
        if loss is None
        else list(torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True))
        for loss in losses
    ]


def penalty_loss(
    rows: TaskGradients, parameters: Sequence[torch.Tensor], groups: Mapping[int, int], slopes: Slopes, ranks: Ranks
) -> torch.Tensor:
    """A scalar whose gradient is that of the penalty: sum_i g_i . v_i, where v_i = dP / dg_i is held constant.

    Where several ranks train together, the penalty is on the sums of the gradients that they have, and the sum of this
    scalar's gradients over them is the penalty's.

    :param rows: the gradients of P tasks.
    :param parameters: of which they are.
    :param groups: the places of the parameters whose gradients are penalised, and the group of each, 0 to G - 1.
    """
    size = max(groups.values(), default=0) + 1
    held = {place: _sums([row[place] for row in rows], parameters[place]) for place in groups}
    ranks.sum(held.values())
    device = parameters[0].device
    grams = torch.zeros(size, len(rows), len(rows), dtype=torch.float64, device=device)
    for place, group in groups.items():
        grams[group] += inner_products(held[place], held[place])
    matrices = slopes(grams.cpu()).to(device)
    total = torch.zeros((), device=device)
    for place, group in groups.items():
        # Slopes grow as gradients shrink, and would not all be numbers in single precision; nor in half, what follows.
        precise = torch.promote_types(held[place].dtype, torch.float32)
        pulls = (matrices[group] @ held[place].double()).to(precise)
        for row, pull in zip(rows, pulls, strict=True):
            gradient = row[place]
            if gradient is not None:
                total = total + _flat(gradient).to(precise) @ pull
    return total


def _sums(gradients: Sequence[torch.Tensor | None], parameter: torch.Tensor) -> torch.Tensor:
    """[P, size]."""
    zero = torch.zeros_like(parameter)
    return torch.stack([_flat(zero if gradient is None else gradient.detach()) for gradient in gradients])


def _flat(gradient: torch.Tensor) -> torch.Tensor:
    """All its real numbers, a complex one being two."""
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    return (torch.view_as_real(gradient) if gradient.is_complex() else gradient).flatten()


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Say what to do where an operation of the network cannot be differentiated twice.

    :raises ReconError: naming the operation.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in ("derivative", "double backward", "differentiate twice")):
            raise
        raise ReconError(
            f"the gradients of the tasks cannot be differentiated a second time, as the method needs it: {error}",
            "attention can be with `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` around the forward pass",
        ) from error
