"""Counts over time: the same totals in however many windows, of equal length but for the last."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.artifacts.series import MOST_WINDOWS
from recon_cli.profiling.windows import Windows


def windows_of(values):
    windows = Windows()
    for value in values:
        windows = windows.with_one({"a": torch.tensor([value, 1])})
    return windows


@given(st.lists(st.integers(0, 9), max_size=5 * MOST_WINDOWS))
def test_each_window_holds_the_sum_of_its_iterations(values):
    windows = windows_of(values)
    assert sum(windows.lengths) == len(values)
    begin = 0
    for counts, length in zip(windows.counts, windows.lengths, strict=True):
        assert counts["a"].tolist() == [sum(values[begin : begin + length]), length]
        begin += length


@given(st.integers(1, 20 * MOST_WINDOWS))
def test_there_are_never_few_windows_nor_many_and_all_but_the_last_are_of_one_length(iterations):
    lengths = windows_of([0] * iterations).lengths
    assert min(iterations, MOST_WINDOWS // 2) <= len(lengths) <= MOST_WINDOWS
    assert len({*lengths[:-1]}) <= 1
    assert 0 < lengths[-1] <= lengths[0]


@given(st.lists(st.integers(0, 9), max_size=3 * MOST_WINDOWS), st.data())
def test_windows_that_were_saved_and_restored_end_alike(values, data):
    cut = data.draw(st.integers(0, len(values)))
    windows = Windows.from_state(windows_of(values[:cut]).state())
    for value in values[cut:]:
        windows = windows.with_one({"a": torch.tensor([value, 1])})
    straight = windows_of(values)
    assert windows.lengths == straight.lengths
    for one, other in zip(windows.counts, straight.counts, strict=True):
        assert torch.equal(one["a"], other["a"])
