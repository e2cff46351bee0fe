"""Counting against counting by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.artifacts.scores import HISTOGRAM_BINS, Histogram, histogram_edge
from recon_cli.profiling.tally import ConflictTally

SEVERITIES = (0.0, -0.05, -0.1, -0.5)
near_edges = st.integers(0, HISTOGRAM_BINS).map(histogram_edge)
values = st.one_of(st.floats(-1, 1), near_edges, st.just(float("nan")))


def tally_of(cosines, measured=None, stage=0, stages=1):
    tally = ConflictTally(1, stages, SEVERITIES)
    row = torch.tensor([cosines], dtype=torch.float64)
    tally.add(stage, row, torch.ones_like(row, dtype=torch.bool) if measured is None else torch.tensor([measured]))
    return tally


@given(st.lists(values, min_size=1, max_size=30))
def test_every_count_is_that_of_the_values(cosines):
    counted = tally_of(cosines).layer_stages(0)[0]
    finite = [c for c in cosines if c == c]
    assert counted.pairs == len(finite)
    assert counted.non_finite == len(cosines) - len(finite)
    assert counted.conflicts == tuple(sum(c < s for c in finite) for s in SEVERITIES)
    assert sum(counted.histogram.counts) == len(finite)


@given(st.lists(values, min_size=1, max_size=30), st.integers(0, HISTOGRAM_BINS - 1))
def test_the_histogram_counts_strictly_below_every_edge(cosines, edge):
    histogram = tally_of(cosines).layer_stages(0)[0].histogram
    assert histogram.below(edge) == sum(c < histogram_edge(edge) for c in cosines if c == c)


@given(st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=20))
def test_pairs_that_were_not_measured_do_not_count(pairs):
    masked = tally_of([c for c, _ in pairs], [m for _, m in pairs]).layer_stages(0)[0]
    kept = [c for c, m in pairs if m]
    assert masked == (tally_of(kept) if kept else tally_of([0.0], [False])).layer_stages(0)[0]


def test_a_cosine_equal_to_the_severity_is_no_conflict():
    assert tally_of([-0.1, -0.05, 0.0]).layer_stages(0)[0].conflicts == (2, 1, 0, 0)


def test_cosine_one_is_in_the_last_bin():
    assert tally_of([1.0]).layer_stages(0)[0].histogram == Histogram(first=HISTOGRAM_BINS - 1, counts=(1,))


def test_stages_are_counted_apart():
    tally = tally_of([-1.0, 0.5], stage=1, stages=3)
    tally.add(2, torch.tensor([[-0.2, -0.2]], dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool))
    assert [stage.conflicts[0] for stage in tally.layer_stages(0)] == [0, 1, 2]
    assert tally.score(0).tolist() == [3]


def test_the_edges_are_the_decimals_that_people_write():
    for index in range(HISTOGRAM_BINS + 1):
        assert histogram_edge(index) == float(f"{(index - 200) * 0.005:.3f}")
