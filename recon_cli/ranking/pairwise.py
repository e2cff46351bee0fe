"""How much each two tasks conflict on the layers of a ranking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from recon_cli.artifacts.ranking import RankedLayer
from recon_cli.errors import ReconError, quoted
from recon_cli.grouping.best import Matrix


def pair_conflicts(layer: RankedLayer, tasks: Sequence[str]) -> Matrix | None:
    """How much each two tasks conflict on a layer: its score between them, or 0 where that is negative.

    :param tasks: the ranking's, in their order; for a ranking that names none, those of the network.
    :returns: a symmetric matrix; None where only the score of all tasks together is known.
    """
    places = range(len(tasks))
    reaching = [place for place in places if layer.tasks is None or tasks[place] in layer.tasks]
    pairs = list(combinations(places, 2))
    if layer.between is not None:
        values = dict(zip(pairs, layer.between, strict=True))
    elif len(reaching) <= 2:
        values = dict.fromkeys(combinations(reaching, 2), layer.score)
    else:
        return None
    conflicts = {pair: max(values.get(pair, 0.0), 0.0) for pair in pairs}
    return [[conflicts[min(i, j), max(i, j)] if i != j else 0.0 for j in places] for i in places]


def known_conflicts(layer: RankedLayer, tasks: Sequence[str]) -> Matrix:
    """What :func:`pair_conflicts` finds.

    :raises ReconError: if it is not known which tasks conflict.
    """
    found = pair_conflicts(layer, tasks)
    if found is None:
        raise ReconError(
            f"the ranking does not tell which of the {len(tasks)} tasks conflict on {quoted(layer.name)}",
            "`recon rank` tells it of a whole profile, by the scores `conflicts`, `probability` and `excess`, at a "
            "severity that was counted between each two tasks",
        )
    return found


def added_up(matrices: Iterable[Matrix], tasks: int) -> Matrix:
    """The conflicts of several layers together."""
    total = [[0.0] * tasks for _ in range(tasks)]
    for matrix in matrices:
        for row, more in zip(total, matrix, strict=True):
            row[:] = [a + b for a, b in zip(row, more, strict=True)]
    return total
