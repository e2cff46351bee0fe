"""Groups of tasks: against all partitions, and with groups that were planted."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon_cli.grouping.best import best_groups, conflict_within, partitions_by_joining, partitions_by_parting
from recon_cli.grouping.partitions import all_partitions, groups_of, refines


def matrix_of(values, tasks):
    matrix = [[0] * tasks for _ in range(tasks)]
    for (one, other), value in zip(combinations(range(tasks), 2), values, strict=True):
        matrix[one][other] = matrix[other][one] = value
    return matrix


@st.composite
def matrices(draw, most=6):
    tasks = draw(st.integers(1, most))
    pairs = tasks * (tasks - 1) // 2
    return matrix_of(draw(st.lists(st.integers(0, 9), min_size=pairs, max_size=pairs)), tasks)


def test_there_are_as_many_partitions_as_the_numbers_of_bell_and_stirling_say():
    assert [len(set(all_partitions(tasks))) for tasks in range(1, 8)] == [1, 2, 5, 15, 52, 203, 877]
    assert len(list(all_partitions(6, 2))) == 1 + 31
    assert len(list(all_partitions(6, 3))) == 1 + 31 + 90


@given(matrices(), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_no_partition_of_so_many_groups_leaves_less_conflict(matrix, most):
    def cost(partition):
        return conflict_within(matrix, partition), len(groups_of(partition))

    found = best_groups(matrix, most)
    assert cost(found) == min(cost(each) for each in all_partitions(len(matrix), most))


def test_with_one_group_all_are_together_and_with_enough_no_conflict_is_left():
    matrix = matrix_of([3, 0, 1, 2, 5, 0], 4)
    assert best_groups(matrix, 1) == (0, 0, 0, 0)
    assert conflict_within(matrix, best_groups(matrix, 4)) == 0


def test_tasks_without_conflict_stay_together_however_many_groups_there_may_be():
    assert best_groups(matrix_of([0, 7, 7, 7, 7, 0], 4), 4) == (0, 0, 2, 2)


def test_planted_groups_of_forty_tasks_are_found():
    generator = random.Random(0)
    group = [generator.randrange(4) for _ in range(40)]
    values = [
        generator.randint(0, 3) if group[one] == group[other] else generator.randint(4, 10)
        for one, other in combinations(range(40), 2)
    ]
    found = best_groups(matrix_of(values, 40), 4)
    assert {tuple(group[task] for task in each) for each in groups_of(found)} == {
        (label,) * group.count(label) for label in range(4)
    }


@pytest.mark.parametrize("way", [partitions_by_joining, partitions_by_parting])
@given(matrices())
@settings(deadline=None, max_examples=30)
def test_nested_partitions_refine_each_other_from_one_group_to_all(way, matrix):
    nested = way(matrix)
    assert [len(groups_of(each)) for each in nested] == list(range(1, len(matrix) + 1))
    assert all(refines(fine, coarse) for coarse, fine in pairwise(nested))


@pytest.mark.parametrize("way", [partitions_by_joining, partitions_by_parting])
def test_nested_partitions_part_first_those_that_conflict_most(way):
    assert way(matrix_of([1, 9, 9, 9, 9, 2], 4))[1] == (0, 0, 2, 2)


def test_where_all_conflict_alike_parting_removes_the_most_that_two_groups_can():
    assert len(groups_of(partitions_by_parting(matrix_of([5] * 28, 8))[1])[0]) == 4
