"""What can be split, as a ranking tells it."""

from __future__ import annotations

from collections.abc import Sequence

from recon_cli.artifacts.ranking import RankedLayer
from recon_cli.ranking.pairwise import added_up, known_conflicts
from recon_cli.tradeoff.problem import Item


def item_of(layers: Sequence[RankedLayer], tasks: Sequence[str], size: int) -> Item:
    """Layers that are split as a whole.

    :param tasks: all of them, in order.
    :param size: parameters, or bytes, of one copy of the layers.
    :raises ReconError: if it is not known which tasks conflict on them.
    """
    return Item(
        names=frozenset(name for layer in layers for name in (layer.name, *layer.aliases)),
        conflicts=added_up([known_conflicts(layer, tasks) for layer in layers], len(tasks)),
        size=size,
        tasks=tuple(
            place for place, task in enumerate(tasks) if any(task in (layer.tasks or tasks) for layer in layers)
        ),
    )
