"""The intervals of rates and their ratios against SciPy's, and what they are to hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from scipy.stats.contingency import relative_risk

from recon_cli.ranking.intervals import ratio_interval, wilson_interval

rates = st.floats(0, 1)
trials = st.integers(1, 10**7)


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_it_is_scipys(successes, trials):
    successes = min(successes, trials)
    expected = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(successes / trials, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(rates, trials)
def test_it_holds_the_rate_and_lies_between_0_and_1(rate, trials):
    low, high = wilson_interval(rate, trials)
    assert 0 <= low <= rate <= high <= 1
    assert low < high


@given(rates, trials, st.integers(1, 10**7))
def test_it_shrinks_with_the_number_of_trials(rate, trials, more):
    (low, high), (least, most) = wilson_interval(rate, trials + more), wilson_interval(rate, trials)
    assert least <= low + 1e-12
    assert high <= most + 1e-12
    assert high - low < most - least


@given(rates, trials)
def test_a_rate_and_its_opposite_have_mirrored_intervals(rate, trials):
    (low, high), (mirrored_low, mirrored_high) = wilson_interval(rate, trials), wilson_interval(1 - rate, trials)
    assert (1 - high, 1 - low) == pytest.approx((mirrored_low, mirrored_high), abs=1e-12)


def test_the_ends_are_exact_where_nothing_or_everything_conflicts():
    assert wilson_interval(0.0, 7)[0] == 0.0
    assert wilson_interval(1.0, 7)[1] == 1.0


# Ratios

ratios = st.tuples(st.integers(0, 3000), st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000)).map(
    lambda four: (min(four[0], four[1]), four[1], min(four[2], four[3]), four[3])
)


@given(ratios)
def test_the_interval_of_a_ratio_holds_it_and_is_finite(counts):
    successes, trials, base, base_trials = counts
    low, high = ratio_interval(successes / trials, trials, base / base_trials, base_trials)
    ratio = (successes / trials) / (base / base_trials)
    assert 0 <= low <= ratio <= high < float("inf")
    assert low < high


@given(ratios.filter(lambda counts: counts[0] > 0))
def test_the_ratio_turned_round_has_the_interval_turned_round(counts):
    successes, trials, base, base_trials = counts
    low, high = ratio_interval(successes / trials, trials, base / base_trials, base_trials)
    turned = ratio_interval(base / base_trials, base_trials, successes / trials, trials)
    assert turned == pytest.approx((1 / high, 1 / low), rel=1e-6)


@pytest.mark.parametrize("counts", [(379, 10_000, 1256, 10_000), (900, 1500, 700, 1500), (5000, 20_000, 300, 1500)])
def test_with_many_trials_the_interval_of_a_ratio_is_scipys(counts):
    found = relative_risk(*counts).confidence_interval(confidence_level=0.95)
    successes, trials, base, base_trials = counts
    low, high = ratio_interval(successes / trials, trials, base / base_trials, base_trials)
    assert (low, high) == pytest.approx((found.low, found.high), rel=0.005)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("base", [0.2, 0.5])
def test_the_interval_of_a_ratio_holds_the_true_one_as_often_as_it_says(rate, base):
    trials = 40
    held = 0.0
    for one in range(trials + 1):
        # A run without a conflict is no baseline, so it is none of those counted.
        for two in range(1, trials + 1):
            low, high = ratio_interval(one / trials, trials, two / trials, trials)
            if low <= rate / base <= high:
                held += binom.pmf(one, trials, rate) * binom.pmf(two, trials, base)
    assert 0.93 < held / (1 - binom.pmf(0, trials, base)) < 0.99
