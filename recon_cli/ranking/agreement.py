"""How alike two rankings of the same layers are, and how alike random ones would be.

Where the order alone counts, a ranking is its layers' names in ranked order; layers with equal scores have one as well,
that of the model. Where the scores count, it is a mapping from layers to scores, and equal scores are ties.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import comb, sqrt


def layer_distance(a: Sequence[str], b: Sequence[str]) -> float:
    """Recon, Eq. 22: d(a, b) = (1/|L|) sum over layers l of |a(l) - b(l)|, with a(l) the position of l in a.

    :param a: layers in ranked order.
    :param b: the same layers in another order.
    """
    position = {name: index for index, name in enumerate(b)}
    return sum(abs(index - position[name]) for index, name in enumerate(a)) / len(a)


def ranking_similarity(a: Sequence[str], b: Sequence[str]) -> float:
    """The share of ordered pairs of layers that both rankings order alike: 1 if equal, 0 if reversed.

    :param a: layers in ranked order.
    :param b: the same layers in another order.
    """
    if len(a) < 2:
        return 1.0
    position = {name: index for index, name in enumerate(b)}
    return 1 - _inversions(position[name] for name in a) / comb(len(a), 2)


def top_k_in_common(a: Sequence[str], b: Sequence[str], k: int) -> int:
    """|A_K & B_K|, of the first K layers of each ranking."""
    return len(set(a[:k]) & set(b[:k]))


def kendall_tau(a: Mapping[str, float], b: Mapping[str, float]) -> float | None:
    """Kendall's tau-b: (C - D) / sqrt((P - T_a)(P - T_b)), 1 if the scores order the layers alike, -1 if reversed.

    Of the P pairs of layers, C are ordered alike and D in reverse; T_a have equal scores in a, T_b in b.

    :param a: each layer's score.
    :param b: scores of the same layers.
    :returns: None where all scores of a or of b are equal.
    """
    pairs = comb(len(a), 2)
    tied_a, tied_b = _tied_pairs(a.values()), _tied_pairs(b.values())
    if pairs in (tied_a, tied_b):
        return None
    tied_in_both = _tied_pairs((score, b[name]) for name, score in a.items())
    # Among equal scores of a, those of b rise, so that no such pair counts as reversed.
    reversed_pairs = _inversions(b[name] for name in sorted(a, key=lambda name: (a[name], b[name])))
    alike = pairs - tied_a - tied_b + tied_in_both - reversed_pairs
    return (alike - reversed_pairs) / sqrt((pairs - tied_a) * (pairs - tied_b))


def spearman_rho(a: Mapping[str, float], b: Mapping[str, float]) -> float | None:
    """Spearman's rho: the correlation of the layers' places by score, where equal scores share the mean of theirs.

    :param a: each layer's score.
    :param b: scores of the same layers.
    :returns: None where all scores of a or of b are equal.
    """
    places_a, places_b = _centred_places(a), _centred_places(b)
    square_a, square_b = (sum(place**2 for place in places.values()) for places in (places_a, places_b))
    if not square_a or not square_b:
        return None
    return sum(place * places_b[name] for name, place in places_a.items()) / sqrt(square_a * square_b)


def distance_by_chance(layers: int) -> float:
    """The mean of Eq. 22 over all orders of so many layers: (L^2 - 1) / 3L."""
    return (layers**2 - 1) / (3 * layers)


def overlap_by_chance(layers: int, k: int) -> float:
    """The mean of |A_K & B_K| / K over all orders of so many layers: K / L."""
    return k / layers


def overlap_probability(layers: int, k: int, common: int) -> float:
    """How probable it is that random orders have at least so many of their first K layers in common (hypergeometric).

    :param layers: the number of all layers, K or more.
    :param common: how many are in common, 0 to K.
    """
    ways = sum(comb(k, number) * comb(layers - k, k - number) for number in range(common, k + 1))
    return ways / comb(layers, k)


def _inversions(values: Iterable[float]) -> int:
    """The number of pairs of which the first is the larger."""
    seen: list[float] = []
    inversions = 0
    for value in values:
        inversions += len(seen) - bisect_right(seen, value)
        insort(seen, value)
    return inversions


def _tied_pairs(values: Iterable[Hashable]) -> int:
    return sum(comb(count, 2) for count in Counter(values).values())


def _centred_places(scores: Mapping[str, float]) -> dict[str, int]:
    """Twice each layer's place from the mean place: how many have a lower score, less how many have a higher one."""
    rising = sorted(scores.values())
    return {
        name: bisect_left(rising, score) + bisect_right(rising, score) - len(rising) for name, score in scores.items()
    }
