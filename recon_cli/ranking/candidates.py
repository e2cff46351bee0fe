"""What the policies choose among: the layers of a ranking, or whole modules of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.layers.names import Granularity, modules_of


@dataclass(frozen=True)
class Candidate:
    """A layer, or a module with those of its layers that are ranked; it is split as a whole or not at all.

    :ivar kind: which of the two.
    :ivar score: the layer's conflict score, or the mean of those of the module's layers.
    :ivar layers: its layers in ranked order.
    """

    kind: Granularity
    name: str
    score: float
    layers: tuple[RankedLayer, ...]


def candidates_of(ranking: Ranking, granularity: Granularity = "layer") -> tuple[Candidate, ...]:
    """The candidates of a ranking by falling score; those with equal scores in the order of their first layers.

    The mean makes the scores of modules of any number of layers comparable, and keeps the scale of the layers' own.
    """
    if granularity == "layer":
        return tuple(Candidate("layer", layer.name, layer.score, (layer,)) for layer in ranking.layers)
    ranked = {layer.name: layer for layer in ranking.layers}
    modules = [
        Candidate("module", name, fsum(ranked[n].score for n in names) / len(names), tuple(ranked[n] for n in names))
        for name, names in modules_of(ranked).items()
    ]
    return tuple(sorted(modules, key=lambda module: -module.score))


def in_network_order(candidates: Sequence[Candidate], positions: Mapping[str, int]) -> tuple[Candidate, ...]:
    """Candidates as the network registers them, a module where its first layer is.

    :param positions: for each ranked layer, its place in that order.
    """
    return tuple(sorted(candidates, key=lambda c: min(positions[layer.name] for layer in c.layers)))
