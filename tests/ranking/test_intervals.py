"""The interval of a rate against SciPy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from recon_cli.ranking.intervals import wilson_interval

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
