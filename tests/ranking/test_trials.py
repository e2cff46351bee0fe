"""How much a rate that depends on itself over time is worth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from recon_cli.ranking.intervals import wilson_interval
from recon_cli.ranking.trials import autocorrelation_time, independent_trials, quarters

DRAWS = 300


def autoregressive(generator, memory, length):
    """A stationary series with rho(k) = memory^k, of variance 1."""
    noise = generator.normal(size=length + 200) * np.sqrt(1 - memory**2)
    return lfilter([1], [1, -memory], noise)[200:]


@pytest.mark.parametrize(("memory", "time"), [(0.0, 1.0), (0.5, 3.0), (0.8, 9.0)])
def test_the_autocorrelation_time_is_that_of_the_process(memory, time):
    generator = np.random.default_rng(0)
    found = [autocorrelation_time(autoregressive(generator, memory, 4000).tolist()) for _ in range(20)]
    assert np.mean(found) == pytest.approx(time, rel=0.15)


def test_a_slow_change_over_the_run_is_no_dependence():
    generator = np.random.default_rng(0)
    values = generator.normal(size=400) + np.repeat([0, 5, 10, 15], 100)
    assert autocorrelation_time(values.tolist()) < 2


@pytest.mark.parametrize("memory", [0.0, 0.7])
@pytest.mark.parametrize("window", [1, 8])
def test_the_interval_holds_the_true_rate_as_often_as_it_says(memory, window):
    generator = np.random.default_rng(0)
    bound, naive, held = -0.8, 0, 0
    truth = stats.norm.cdf(bound)
    for _ in range(DRAWS):
        conflicts = (autoregressive(generator, memory, 1024) < bound).reshape(-1, window)
        counts, sizes = conflicts.sum(1).tolist(), [window] * len(conflicts)
        rate = conflicts.mean()
        low, high = wilson_interval(rate, independent_trials(counts, sizes, 1024))
        held += low <= truth <= high
        low, high = wilson_interval(rate, 1024)
        naive += low <= truth <= high
    assert held / DRAWS > 0.9
    if memory:
        assert naive / DRAWS < 0.85


def test_pairs_that_do_not_depend_on_each_other_are_worth_more_than_their_iterations():
    generator = np.random.default_rng(0)
    counts = generator.binomial(45, 0.3, size=100).tolist()
    assert 1500 < independent_trials(counts, [45] * 100, 100) <= 4500


@pytest.mark.parametrize("conflicts", [[0] * 100, [1] * 100, [1, 0] * 5])
def test_where_time_shows_nothing_each_iteration_is_a_trial(conflicts):
    assert independent_trials(conflicts, [1] * len(conflicts), len(conflicts)) == len(conflicts)


@pytest.mark.parametrize("length", [1, 3, 4, 9, 128])
def test_the_quarters_are_all_of_it_and_even(length):
    parts = quarters(range(length))
    assert [value for part in parts for value in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
