"""How far rankings of the same layers lie apart."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from pathlib import Path

from recon_cli.artifacts.comparison import Comparison
from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.ranking import Ranking
from recon_cli.errors import ReconError, lacking, number

DEFAULT_TOP = 10


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
    seen: list[int] = []
    inversions = 0
    for name in a:
        inversions += len(seen) - bisect_left(seen, position[name])
        insort(seen, position[name])
    return 1 - inversions / (len(a) * (len(a) - 1) / 2)


def top_k_overlap(a: Sequence[str], b: Sequence[str], k: int) -> float:
    """|A_K & B_K| / K, for the first K layers of each ranking."""
    return len(set(a[:k]) & set(b[:k])) / k


def compare(
    rankings: Sequence[Sequence[str]], names: Sequence[str], *, k: int, common_only: bool = False
) -> Comparison:
    """Compare rankings with each other.

    :param rankings: two or more, each the layers in ranked order.
    :param names: what each is called.
    :param k: how many layers count as the top.
    :param common_only: compare over the layers that all rankings hold, instead of refusing rankings that differ.
    :raises ReconError: if the rankings hold different layers, or k is out of range.
    """
    if common_only:
        common = set(rankings[0]).intersection(*rankings[1:])
        if not common:
            raise ReconError("the rankings have no layer in common")
        left_out = sorted(set().union(*rankings) - common)
        rankings = [[name for name in ranking if name in common] for ranking in rankings]
    else:
        left_out = []
        _check_same_layers(rankings, names)
    size = len(rankings[0])
    if not 1 <= k <= size:
        raise ReconError(f"--top-k {k} is out of range: the rankings hold {size} layers")
    return Comparison(
        rankings=tuple(names),
        layers=size,
        left_out=tuple(left_out),
        k=k,
        distance=tuple(tuple(layer_distance(a, b) for b in rankings) for a in rankings),
        similarity=tuple(tuple(ranking_similarity(a, b) for b in rankings) for a in rankings),
        overlap=tuple(tuple(top_k_overlap(a, b, k) for b in rankings) for a in rankings),
    )


def compare_files(paths: Sequence[Path], *, k: int | None, common_only: bool) -> Comparison:
    """Compare the rankings in files.

    :param paths: two or more; one of them may be `-`, standard input.
    :param k: how many layers count as the top; None for 10, or all if there are fewer.
    :raises ReconError: if a file is no ranking, or they cannot be compared.
    """
    if len(paths) < 2:
        raise ReconError("one ranking is given, but a comparison needs two or more")
    if paths.count(STANDARD_STREAM) > 1:
        raise ReconError("standard input can be read only once, but `-` is given twice")
    rankings = [Ranking.read(path).names for path in paths]
    if k is None:
        k = min(DEFAULT_TOP, *(len(ranking) for ranking in rankings))
        if common_only:
            k = max(1, min(k, len(set(rankings[0]).intersection(*rankings[1:]))))
    return compare(rankings, [str(path) for path in paths], k=k, common_only=common_only)


def exceeds(comparison: Comparison, limit: float | None) -> str | None:
    """A sentence that says that two rankings lie further apart than a limit, or None if none do.

    :raises ReconError: if the limit is no distance.
    """
    if limit is None:
        return None
    if not limit >= 0:
        raise ReconError(f"--fail-above {number(limit)} is no distance; a number of 0 or more is needed")
    if comparison.largest_distance <= limit:
        return None
    return f"the largest distance, {number(comparison.largest_distance)}, is above {number(limit)}"


def _check_same_layers(rankings: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    for ranking, name in zip(rankings[1:], names[1:], strict=True):
        if difference := lacking(names[0], rankings[0], name, ranking):
            raise ReconError(
                f"the rankings hold different layers: {difference}",
                "pass --common to compare over the layers that all of them hold",
            )
