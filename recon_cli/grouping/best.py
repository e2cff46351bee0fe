"""The partition of the tasks into at most so many groups that leaves the least conflict within them.

That is the problem of the largest cut into k parts, which is NP-hard: with few tasks it is solved exactly by branch and
bound, with many by joining groups and moving tasks for as long as that helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from recon_cli.grouping.partitions import Partition, all_apart, all_together, groups_of, joined, partition_by

Matrix = Sequence[Sequence[float]]
"""How much each two tasks conflict: symmetric, 0 or more, and 0 on the diagonal."""

EXACT_UP_TO = 10
"""With so many tasks there are 115,975 partitions, and the bounds leave out most of them."""


def conflict_within(matrix: Matrix, partition: Partition) -> float:
    """The conflict between tasks that are together."""
    tasks = range(len(partition))
    return sum(matrix[one][other] for one, other in combinations(tasks, 2) if partition[one] == partition[other])


def conflict_between(matrix: Matrix, one: Sequence[int], other: Sequence[int]) -> float:
    """The conflict between the tasks of two groups."""
    return sum(matrix[i][j] for i in one for j in other)


def best_groups(matrix: Matrix, most: int) -> Partition:
    """The partition with the least conflict within its groups; of those that leave as much, one of the fewest groups.

    :param most: how many groups there may be, 1 or more.
    :returns: the best one of all for up to :data:`EXACT_UP_TO` tasks; else one that no move of a task, and no exchange
        of two, makes better.
    """
    found = min(
        (_improved(matrix, start, most) for start in (_by_joining(matrix, most), _one_by_one(matrix, most))),
        key=lambda partition: _cost(matrix, partition),
    )
    return _exact(matrix, most, found) if len(matrix) <= EXACT_UP_TO else found


def partitions_by_joining(matrix: Matrix) -> tuple[Partition, ...]:
    """Partitions into 1, 2, ... groups up to one for every task, each a refinement of the one before.

    From all tasks apart, the two groups are joined between which there is the least conflict for each pair of tasks.
    They follow groups of tasks that get along, if there are any.
    """
    partition = all_apart(len(matrix))
    found = [partition]
    while len(groups := groups_of(partition)) > 1:
        _, one, other = min(
            (conflict_between(matrix, one, other) / (len(one) * len(other)), one, other)
            for one, other in combinations(groups, 2)
        )
        partition = joined(partition, one[0], other[0])
        found.append(partition)
    return tuple(reversed(found))


def partitions_by_parting(matrix: Matrix) -> tuple[Partition, ...]:
    """Partitions into 1, 2, ... groups up to one for every task, each a refinement of the one before.

    From all tasks together, the group is parted in two of which that removes the most conflict. Few groups remove as
    much as they can, where all tasks conflict alike.
    """
    found = [all_together(len(matrix))]
    while len(groups := groups_of(found[-1])) < len(matrix):
        parted = (_parted(matrix, found[-1], group) for group in groups if len(group) > 1)
        found.append(min(parted, key=lambda partition: conflict_within(matrix, partition)))
    return tuple(found)


def _parted(matrix: Matrix, partition: Partition, group: Sequence[int]) -> Partition:
    """The partition with a group parted in two; its last task is by itself where no conflict tells how."""
    inside = best_groups([[matrix[one][other] for other in group] for one in group], 2)
    if not any(inside):
        inside = (*inside[:-1], len(group) - 1)
    first = {task: group[place] for task, place in zip(group, inside, strict=True)}
    return partition_by([first.get(task, label) for task, label in enumerate(partition)])


def _cost(matrix: Matrix, partition: Partition) -> tuple[float, int]:
    return conflict_within(matrix, partition), len(set(partition))


def _by_joining(matrix: Matrix, most: int) -> Partition:
    """From all tasks apart, join the two groups with the least conflict between them, while there are too many groups
    or it costs nothing.
    """
    partition = all_apart(len(matrix))
    while len(groups := groups_of(partition)) > 1:
        least, one, other = min((conflict_between(matrix, *pair), *pair) for pair in combinations(groups, 2))
        if len(groups) <= most and least > 0:
            break
        partition = joined(partition, one[0], other[0])
    return partition


def _one_by_one(matrix: Matrix, most: int) -> Partition:
    """Put the tasks, those with the most conflict first, each where it adds the least."""
    groups: list[list[int]] = []
    for task in _by_conflict(matrix):
        added = [(conflict_between(matrix, [task], group), place) for place, group in enumerate(groups)]
        least, place = min(added, default=(1.0, 0))
        if least > 0 and len(groups) < most:
            groups.append([task])
        else:
            groups[place].append(task)
    return _of_groups(groups, len(matrix))


def _improved(matrix: Matrix, partition: Partition, most: int) -> Partition:
    """Move a task to another group, or exchange two, as long as that leaves less conflict."""
    best, cost = partition, _cost(matrix, partition)
    while True:
        for candidate in _neighbours(best, most):
            found = _cost(matrix, candidate)
            if found < cost:
                best, cost = candidate, found
                break
        else:
            return best


def _neighbours(partition: Partition, most: int) -> Sequence[Partition]:
    tasks = range(len(partition))
    labels = sorted(set(partition))
    if len(labels) < most:
        # A label that no group has is a group of its own.
        labels.append(len(partition))
    moved = [(*partition[:t], label, *partition[t + 1 :]) for t in tasks for label in labels if label != partition[t]]
    exchanged = []
    for one, other in combinations(tasks, 2):
        if partition[one] != partition[other]:
            keys = list(partition)
            keys[one], keys[other] = keys[other], keys[one]
            exchanged.append(tuple(keys))
    return [partition_by(keys) for keys in (*moved, *exchanged)]


def _exact(matrix: Matrix, most: int, known: Partition) -> Partition:
    """The best partition by branch and bound.

    :param known: one that is not better than it.
    """
    order = _by_conflict(matrix)
    best, bound = known, _cost(matrix, known)

    def extend(place: int, groups: list[list[int]], within: float) -> None:
        nonlocal best, bound
        if (within, len(groups)) >= bound:
            return
        if place == len(order):
            best, bound = _of_groups(groups, len(order)), (within, len(groups))
            return
        task = order[place]
        for added, index in sorted((conflict_between(matrix, [task], group), i) for i, group in enumerate(groups)):
            groups[index].append(task)
            extend(place + 1, groups, within + added)
            groups[index].pop()
        if len(groups) < most:
            groups.append([task])
            extend(place + 1, groups, within)
            groups.pop()

    extend(0, [], 0.0)
    return best


def _by_conflict(matrix: Matrix) -> list[int]:
    return sorted(range(len(matrix)), key=lambda task: (-sum(matrix[task]), task))


def _of_groups(groups: Sequence[Sequence[int]], tasks: int) -> Partition:
    of = {task: place for place, group in enumerate(groups) for task in group}
    return partition_by([of[task] for task in range(tasks)])
