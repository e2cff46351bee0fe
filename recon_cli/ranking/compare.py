"""Rankings of the same layers against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from recon_cli.artifacts.comparison import Chance, Comparison
from recon_cli.errors import ReconError, lacking
from recon_cli.ranking.agreement import (
    distance_by_chance,
    kendall_tau,
    layer_distance,
    overlap_by_chance,
    overlap_probability,
    ranking_similarity,
    spearman_rho,
    top_k_in_common,
)
from recon_cli.ranking.reading import NamedRanking

DEFAULT_TOP = 10

Compared = TypeVar("Compared")
Figure = TypeVar("Figure")


def compare(rankings: Sequence[NamedRanking], *, k: int | None = None, common_only: bool = False) -> Comparison:
    """Compare rankings with each other.

    :param rankings: two or more.
    :param k: how many layers count as the top; None for 10, or all if there are fewer.
    :param common_only: compare over the layers that all rankings hold, instead of refusing rankings that differ.
    :raises ReconError: if there are too few, they hold different layers, or k is out of range.
    """
    if len(rankings) < 2:
        raise ReconError(
            "one ranking is given, but a comparison needs two or more", "for the stages of one profile, pass --stages"
        )
    common = set(rankings[0].ranking.names).intersection(*(each.ranking.names for each in rankings[1:]))
    left_out = sorted({name for each in rankings for name in each.ranking.names} - common)
    if not common_only:
        _check_same_layers(rankings)
    elif not common:
        raise ReconError("the rankings have no layer in common")
    size = len(common)
    top = min(DEFAULT_TOP, size) if k is None else k
    if not 1 <= top <= size:
        raise ReconError(f"--top-k {top} is out of range: the rankings hold {size} layers")
    scores = [{layer.name: layer.score for layer in each.ranking.layers if layer.name in common} for each in rankings]
    orders = [list(of_ranking) for of_ranking in scores]
    in_common = _matrix(orders, lambda a, b: top_k_in_common(a, b, top))
    return Comparison(
        rankings=tuple(each.name for each in rankings),
        layers=size,
        left_out=tuple(left_out),
        k=top,
        distance=_matrix(orders, layer_distance),
        similarity=_matrix(orders, ranking_similarity),
        tau=_matrix(scores, kendall_tau),
        rho=_matrix(scores, spearman_rho),
        overlap=tuple(tuple(count / top for count in row) for row in in_common),
        overlap_probability=tuple(tuple(overlap_probability(size, top, count) for count in row) for row in in_common),
        chance=Chance(distance=distance_by_chance(size), overlap=overlap_by_chance(size, top)),
    )


def _matrix(
    items: Sequence[Compared], measure: Callable[[Compared, Compared], Figure]
) -> tuple[tuple[Figure, ...], ...]:
    """A measure of every two, which is the same in both directions."""
    places = range(len(items))
    figures = {(i, j): measure(items[i], items[j]) for i in places for j in places[i:]}
    return tuple(tuple(figures[min(i, j), max(i, j)] for j in places) for i in places)


def _check_same_layers(rankings: Sequence[NamedRanking]) -> None:
    first = rankings[0]
    for other in rankings[1:]:
        if difference := lacking(first.name, first.ranking.names, other.name, other.ranking.names):
            raise ReconError(
                f"the rankings hold different layers: {difference}",
                "pass --common to compare over the layers that all of them hold",
            )
