"""The split that removes the most conflict within limits, against an exact solver."""

from __future__ import annotations

import pytest

from recon_cli.grouping.partitions import groups_of
from recon_cli.tradeoff.family import family_of
from recon_cli.tradeoff.problem import Limits
from recon_cli.tradeoff.solve import Solver
from tests.tradeoff.exact import most_removed
from tests.tradeoff.networks import chain, drawn


def within(problem, limits, most=None):
    found = Solver(problem, family_of(problem.conflicts, most)).solve(limits)
    assert found == problem.solution(found.partitions)
    assert found.within(limits)
    return found


def test_an_early_layer_is_split_only_where_its_operations_are_affordable():
    problem = chain((10, 100, [9]), (10, 100, [5]), (10, 100, [4]))
    shared = problem.unsplit().operations
    assert within(problem, Limits(operations=shared + 100)).partitions == ((0, 0), (0, 0), (0, 1))
    assert within(problem, Limits(operations=shared + 200)).removed == 9
    assert within(problem, Limits(added=10, operations=shared + 300)).partitions == ((0, 1), (0, 0), (0, 0))
    assert within(problem, Limits()).removed == 18


def test_what_lies_behind_a_split_is_split_at_the_price_of_its_parameters():
    problem = chain((1, 100, [3]), (1, 100, [3]), (1, 100, [3]), (1, 1, [3]))
    limits = Limits(operations=problem.unsplit().operations + 101)
    assert within(problem, limits).partitions == ((0, 0), (0, 0), (0, 1), (0, 1))


def test_tasks_that_get_along_keep_a_copy_together():
    problem = chain((10, 10, [0, 7, 7]), (10, 10, [0, 7, 7]), tasks=3)
    found = within(problem, Limits())
    assert found.partitions == ((0, 0, 2), (0, 0, 2))
    assert (found.added, found.operations) == (20, 43)


def test_no_more_groups_are_made_than_are_allowed():
    problem = drawn(1, 4, 6)
    for most in (1, 2, 3):
        found = within(problem, Limits(), most)
        streams = problem.streams(found.partitions)
        assert max(len(groups_of(stream)) for stream in streams) == most


def test_nothing_is_split_where_nothing_is_allowed():
    problem = drawn(2, 3, 5)
    assert within(problem, Limits(added=0)).removed == 0


@pytest.mark.parametrize(("tasks", "layers"), [(2, 12), (3, 5)])
@pytest.mark.parametrize("skips", [False, True])
def test_hardly_less_conflict_is_removed_than_an_exact_solver_removes(tasks, layers, skips):
    missed = []
    for seed in range(6):
        problem = drawn(seed, tasks, layers, skips)
        unsplit, all_split = problem.unsplit(), within(problem, Limits())
        limits = Limits(
            added=all_split.added * (0.2 + 0.1 * (seed % 3)),
            operations=unsplit.operations + (all_split.operations - unsplit.operations) * (0.3 + 0.2 * (seed % 3)),
        )
        best = most_removed(problem, limits)
        missed.append(1 - within(problem, limits).removed / best)
    assert min(missed) > -1e-9
    assert sum(missed) / len(missed) < 0.01
    assert max(missed) < 0.05
