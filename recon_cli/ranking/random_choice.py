"""Random choices that a seed repeats on every machine, whatever the order of what is chosen from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

_DRAWS = 100
_NEAR = 0.001
_STOP_WALK = 0.9


def shuffled(names: Iterable[str], seed: int, draw: int = 0) -> list[str]:
    """Names in a random order, that of SHA-256 of the seed, the draw and the name.

    No generator takes part, so the order is the same in every version of Python, and two names stand in the same order
    whatever other names there are.

    :param draw: tells several orders of one seed apart.
    """
    return sorted(names, key=lambda name: sha256(f"{seed}\0{draw}\0{name}".encode()).digest())


def matching_subset(sizes: Mapping[str, int], wanted: int, seed: int) -> frozenset[str]:
    """A random subset whose sizes add up to as nearly `wanted` as can be found.

    Names are taken in random order, and those that do not fit are skipped; but once 90% of the sum is reached, the
    first that does not fit ends it, since to go on would take nearly everything that is small. The rest is mended by
    adding, removing or exchanging a single name, each time what helps most, until nothing helps. Draws that end more
    than 0.1% off are repeated, and the best of 100 is kept.

    :param sizes: what is drawn from, by name.
    :param wanted: the sum, above 0.
    """
    best: frozenset[str] = frozenset()
    for draw in range(_DRAWS):
        order = shuffled(sizes, seed, draw)
        subset = _mend(order, _walk(order, sizes, wanted), sizes, wanted)
        if abs(_sum(subset, sizes) - wanted) < abs(_sum(best, sizes) - wanted):
            best = subset
        if abs(_sum(best, sizes) - wanted) <= _NEAR * wanted:
            break
    return best


def _walk(order: Sequence[str], sizes: Mapping[str, int], wanted: int) -> list[str]:
    taken: list[str] = []
    reached = 0
    for name in order:
        if reached + sizes[name] <= wanted:
            taken.append(name)
            reached += sizes[name]
        elif reached >= _STOP_WALK * wanted:
            break
    return taken


def _mend(order: Sequence[str], taken: Sequence[str], sizes: Mapping[str, int], wanted: int) -> frozenset[str]:
    # Names of one size are alike here, so that many layers with few sizes are quickly searched.
    kept = set(taken)
    inside = _by_size(taken, sizes)
    outside = _by_size((name for name in order if name not in kept), sizes)
    missing = wanted - _sum(taken, sizes)
    while missing:
        out, into = _best_exchange(sorted(inside), sorted(outside), missing)
        if abs(missing + out - into) >= abs(missing):
            break
        _move(out, inside, outside)
        _move(into, outside, inside)
        missing += out - into
    return frozenset(name for names in inside.values() for name in names)


def _by_size(names: Iterable[str], sizes: Mapping[str, int]) -> dict[int, list[str]]:
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(sizes[name], []).append(name)
    return groups


def _best_exchange(inside: Sequence[int], outside: Sequence[int], missing: int) -> tuple[int, int]:
    """The size to take out and the one to put in that come nearest to the sum; 0 stands for nothing.

    :param inside: the sizes that can be taken out, ascending; `outside`: those that can be put in.
    """
    steps = [0, *outside]
    best = (abs(missing), 0, 0)
    for out in (0, *inside):
        at = bisect_left(steps, missing + out)
        for into in steps[max(at - 1, 0) : at + 1]:
            best = min(best, (abs(missing + out - into), out, into))
    return best[1:]


def _move(size: int, source: dict[int, list[str]], target: dict[int, list[str]]) -> None:
    """Move one name of a size; nothing for 0."""
    if size == 0:
        return
    target.setdefault(size, []).append(source[size].pop())
    if not source[size]:
        del source[size]


def _sum(names: Iterable[str], sizes: Mapping[str, int]) -> int:
    return sum(sizes[name] for name in names)
