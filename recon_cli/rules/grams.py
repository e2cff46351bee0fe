"""Gram matrices of task gradients, made fit for rules: of one size, without tasks that have no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from recon_cli.errors import NonFiniteError, listed

RANK = 1e-12
"""Eigenvalues below this part of the largest count as zero. Gradients in float32 that should depend on each other leave
up to 1e-13 by their rounding, which is none of their directions."""

VANISHING = 1e-150
"""Gradients that are shorter than this part of the longest count as zero: their squares are none beside its own."""


@dataclass(frozen=True)
class Active:
    """The tasks that have a gradient.

    :ivar places: their places among all tasks.
    :ivar losses: [A].
    :ivar gram: [A, A], the inner products of their gradients, divided by `size` squared.
    :ivar norms: [A], the norms of their gradients, divided by `size`.
    :ivar size: the root mean square of the norms; what depends on the gradients' size is scaled back with it.
    """

    places: tuple[int, ...]
    losses: torch.Tensor
    gram: torch.Tensor
    norms: torch.Tensor
    size: float

    @cached_property
    def cosines(self) -> torch.Tensor:
        """[A, A], the cosines between the gradients."""
        return self.gram / self.norms.outer(self.norms)


@dataclass(frozen=True)
class Spectrum:
    """A Gram matrix by its directions: V diag(values) V'.

    :ivar values: [R], ascending, without those that count as zero.
    :ivar vectors: V, [A, R].
    """

    values: torch.Tensor
    vectors: torch.Tensor

    @property
    def inverse(self) -> torch.Tensor:
        """[A, A], the pseudo-inverse."""
        return (self.vectors / self.values) @ self.vectors.T


def active_tasks(gram: torch.Tensor, losses: torch.Tensor, present: Sequence[int]) -> Active:
    """The tasks whose gradients are not zero beside the longest, among those that are present.

    :param gram: [T, T] in float64, finite for these.
    """
    norms = gram.diagonal().clamp(min=0).sqrt()
    least = VANISHING * float(norms[list(present)].max()) if present else 0.0
    places = tuple(place for place in present if norms[place] > least)
    kept = norms[list(places)]
    # Squares of the largest and the smallest doubles would not be doubles any more.
    largest = float(kept.max()) if places else 1.0
    size = largest * float((kept / largest).square().mean().sqrt()) if places else 1.0
    scaled = gram[list(places)][:, list(places)] / size / size
    return Active(places, losses[list(places)], (scaled + scaled.T) / 2, kept / size, size)


def spectrum(gram: torch.Tensor) -> Spectrum:
    """The eigenvalues and eigenvectors of a Gram matrix that is not zero."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > RANK * values[-1]
    return Spectrum(values[kept], vectors[:, kept])


def check_finite(values: torch.Tensor, tasks: Sequence[str], what: str) -> None:
    """Refuse NaN and infinity.

    :param values: [T].
    :raises NonFiniteError: naming the tasks.
    """
    broken = [task for task, value in zip(tasks, values.tolist(), strict=True) if value - value != 0]
    if broken:
        raise NonFiniteError(
            f"the {what} of {listed(broken)} is NaN or infinite, so that no update can be made of it",
            "look for a division by zero, a logarithm of zero, too high a learning rate, or too high a scale of losses",
        )
