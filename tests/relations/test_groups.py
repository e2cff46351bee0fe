"""Groups of tasks: against SciPy's complete linkage, and what every grouping keeps to."""

from __future__ import annotations

from itertools import combinations
from math import comb
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import chi2_contingency

from recon_cli.relations.chance import differ_beyond_chance
from recon_cli.relations.groups import mean_rate, suggest_groups

rates = st.integers(0, 1000).map(lambda value: value / 1000)


@st.composite
def all_rates(draw, each=rates, *, unique=False):
    tasks = draw(st.integers(3, 9))
    return tasks, draw(st.lists(each, min_size=comb(tasks, 2), max_size=comb(tasks, 2), unique=unique))


def rate_of(found, tasks, one, other):
    return found[list(combinations(range(tasks), 2)).index((min(one, other), max(one, other)))]


@given(all_rates(unique=True))
def test_without_ties_groups_are_those_of_scipys_complete_linkage(given_rates):
    tasks, found = given_rates
    labels = fcluster(linkage(found, "complete"), mean(found), "distance")
    expected = {tuple(np.flatnonzero(labels == label).tolist()) for label in labels}
    assert set(suggest_groups(found, tasks)) == expected


@given(all_rates(unique=True), st.randoms(use_true_random=False))
def test_without_ties_the_order_of_the_tasks_does_not_matter(given_rates, random):
    tasks, found = given_rates
    order = random.sample(range(tasks), tasks)
    other = [rate_of(found, tasks, order[i], order[j]) for i, j in combinations(range(tasks), 2)]
    back = {tuple(sorted(order[task] for task in group)) for group in suggest_groups(other, tasks)}
    assert back == set(suggest_groups(found, tasks))


@given(all_rates(st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.3, 1.0]), rates)))
def test_every_grouping_keeps_to_the_rule_and_joins_what_it_may(given_rates):
    tasks, found = given_rates
    groups = suggest_groups(found, tasks)
    pairs = dict(zip(combinations(range(tasks), 2), found, strict=True))
    measured = sorted({task for pair, rate in pairs.items() if rate is not None for task in pair})
    if len(measured) < 3:
        assert groups is None
        return
    limit = mean(rate for rate in found if rate is not None)
    assert sorted(task for group in groups for task in group) == measured
    assert list(groups) == sorted(groups)

    def fits(tasks):
        inside = [pairs[pair] for pair in combinations(sorted(tasks), 2)]
        return all(rate is not None and rate <= limit for rate in inside)

    assert all(fits(group) for group in groups)
    assert not any(fits(one + other) for one, other in combinations(groups, 2))


@given(st.integers(3, 12), rates)
def test_tasks_that_all_conflict_alike_are_one_group(tasks, rate):
    assert suggest_groups([rate] * comb(tasks, 2), tasks) == (tuple(range(tasks)),)
    assert mean_rate([rate, None, rate]) == rate


def test_of_equal_rates_the_first_tasks_are_joined():
    # 0-1 and 1-2 get along equally well, 0-2 do not.
    assert suggest_groups([0.1, 0.9, 0.1], 3) == ((0, 1), (2,))


def test_of_two_tasks_there_is_nothing_to_group():
    assert suggest_groups([0.5], 2) is None
    assert suggest_groups([0.5, None, None], 3) is None


@given(st.lists(st.tuples(st.integers(20, 400), st.floats(0.05, 0.95)), min_size=3, max_size=30))
def test_a_difference_beyond_chance_is_that_of_scipys_chi_squared_test(counted):
    measured = [times for times, _ in counted]
    conflicts = [max(1, round(times * share)) for times, share in counted]
    left = [times - count for times, count in zip(measured, conflicts, strict=True)]
    p = chi2_contingency([conflicts, left]).pvalue
    # The cube root is normal only nearly.
    if abs(p - 0.05) > 0.005:
        assert differ_beyond_chance([0, *measured], [0, *conflicts]) == (p < 0.05)


@pytest.mark.parametrize("conflicts", [(0, 0, 0), (9, 9, 9)])
def test_tasks_that_never_or_always_conflict_do_not_differ(conflicts):
    assert not differ_beyond_chance((9, 9, 9), conflicts)
    assert not differ_beyond_chance((0, 0, 9), (0, 0, 4))
