"""Partitions of the tasks: which of them are together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

Partition: TypeAlias = tuple[int, ...]
"""For each task, in order, the position of the first task that it is together with."""


def partition_by(keys: Sequence[object]) -> Partition:
    """The partition in which tasks are together that have equal keys."""
    first: dict[object, int] = {}
    return tuple(first.setdefault(key, place) for place, key in enumerate(keys))


def all_together(tasks: int) -> Partition:
    """The partition of one group."""
    return (0,) * tasks


def all_apart(tasks: int) -> Partition:
    """The partition in which every task is by itself."""
    return tuple(range(tasks))


def groups_of(partition: Partition) -> tuple[tuple[int, ...], ...]:
    """The groups, each with its tasks in order, by their first tasks."""
    groups: dict[int, list[int]] = {}
    for task, first in enumerate(partition):
        groups.setdefault(first, []).append(task)
    return tuple(map(tuple, groups.values()))


def refines(fine: Partition, coarse: Partition) -> bool:
    """Whether tasks that are together in the one partition are so in the other as well."""
    return all(coarse[task] == coarse[first] for task, first in enumerate(fine))


def joined(partition: Partition, one: int, other: int) -> Partition:
    """The partition with two of its groups as one.

    :param one: the first task of a group; as `other`.
    """
    first, last = min(one, other), max(one, other)
    return tuple(first if group == last else group for group in partition)


def all_partitions(tasks: int, most: int | None = None) -> Iterator[Partition]:
    """Every partition of the tasks into at most so many groups, those with fewer ones not in any order.

    :param most: None for as many as there are tasks.
    """

    def extend(partition: Partition, groups: tuple[int, ...]) -> Iterator[Partition]:
        task = len(partition)
        if task == tasks:
            yield partition
            return
        for group in groups:
            yield from extend((*partition, group), groups)
        if most is None or len(groups) < most:
            yield from extend((*partition, task), (*groups, task))

    yield from extend((), ())
