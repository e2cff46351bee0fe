"""The partitions that are tried."""

from __future__ import annotations

from collections.abc import Iterable

from recon_cli.grouping.best import (
    Matrix,
    best_groups,
    conflict_between,
    partitions_by_joining,
    partitions_by_parting,
)
from recon_cli.grouping.partitions import Partition, all_apart, all_partitions, groups_of

ALL_UP_TO = 5
"""Of so many tasks there are 52 partitions, all of which are tried."""


def family_of(conflicts: Matrix, most: int | None = None) -> tuple[Partition, ...]:
    """Partitions of the tasks, coarse ones first; the last one is finer than all others.

    So however they are mixed along a network, it has no more streams than the last one has groups. Of up to
    :data:`ALL_UP_TO` tasks, or groups of tasks that stay together, they are all that there are; of more, those that
    come from joining two groups at a time, and from parting one.

    :param conflicts: how much each two tasks conflict.
    :param most: into how many groups they may be parted; None for as many as there are tasks.
    """
    tasks = len(conflicts)
    finest = all_apart(tasks) if most is None or most >= tasks else best_groups(conflicts, most)
    groups = groups_of(finest)
    between = [[conflict_between(conflicts, a, b) if a != b else 0 for b in groups] for a in groups]
    of_groups: Iterable[Partition] = all_partitions(len(groups))
    if len(groups) > ALL_UP_TO:
        of_groups = dict.fromkeys([*partitions_by_joining(between), *partitions_by_parting(between)])
    place = {task: index for index, group in enumerate(groups) for task in group}
    found = [tuple(groups[each[place[task]]][0] for task in range(tasks)) for each in of_groups]
    return tuple(sorted(found, key=lambda partition: len(set(partition))))
