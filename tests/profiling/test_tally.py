"""Counting against counting by hand."""

from __future__ import annotations

import gc
import sys
from itertools import combinations
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.artifacts.scores import HISTOGRAM_BINS, Histogram, histogram_edge
from recon_cli.profiling.cosines import magnitude_similarities
from recon_cli.profiling.tally import ConflictTally
from tests.conftest import scores_of

SEVERITIES = (0.0, -0.05, -0.1, -0.5)
near_edges = st.integers(0, HISTOGRAM_BINS).map(histogram_edge)
values = st.one_of(st.floats(-1, 1), near_edges, st.just(float("nan")))


def count(tally, stage, grams, reached=None, present=None):
    """Count one iteration of one layer."""
    gram = torch.tensor([grams], dtype=torch.float64)
    everything = torch.ones(gram.shape[1], dtype=torch.bool)
    tally.add(
        stage,
        gram,
        everything.unsqueeze(0) if reached is None else torch.tensor([reached]),
        everything if present is None else torch.tensor(present),
    )


def tally_of(cosines, measured=None, stage=0, stages=1):
    """A tally of two tasks with gradients of norm 1, which had one of these cosines in each iteration."""
    tally = ConflictTally(1, 2, stages, SEVERITIES)
    for cosine, reached in zip(cosines, measured or [True] * len(cosines), strict=True):
        count(tally, stage, [[1.0, cosine], [cosine, 1.0]], [reached, reached])
    return tally


def norms_tally(iterations, stages=1):
    """A tally of parallel gradients with these norms; `iterations` holds a stage and the norms of all tasks."""
    tally = ConflictTally(1, len(iterations[0][1]), stages, SEVERITIES)
    for stage, norms in iterations:
        count(tally, stage, [[one * two for two in norms] for one in norms])
    return tally


@given(st.lists(values, min_size=1, max_size=30))
def test_every_count_is_that_of_the_values(cosines):
    counted = tally_of(cosines).layer_stages(0)[0]
    finite = [c for c in cosines if c == c]
    assert counted.pairs == len(finite)
    assert counted.non_finite == len(cosines) - len(finite)
    assert counted.iterations == len(finite)
    assert counted.conflicts == tuple(sum(c < s for c in finite) for s in SEVERITIES)
    assert counted.gds == (pytest.approx(fmean(finite), abs=1e-15) if finite else None)
    assert counted.gms == (1.0 if finite else None)
    assert counted.norms == (1.0, 1.0)
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
    for _ in range(2):
        count(tally, 2, [[1.0, -0.2], [-0.2, 1.0]])
    assert [stage.conflicts[0] for stage in tally.layer_stages(0)] == [0, 1, 2]
    assert tally.score(0).tolist() == [3]


def test_the_edges_are_the_decimals_that_people_write():
    for index in range(HISTOGRAM_BINS + 1):
        assert histogram_edge(index) == float(f"{(index - 200) * 0.005:.3f}")


norms = st.floats(1e-75, 1e75) | st.just(0.0)


@given(st.lists(norms, min_size=2, max_size=5))
def test_magnitude_similarity_is_that_of_the_definition(lengths):
    expected = [1.0 if one == two == 0 else 2 * one * two / (one**2 + two**2) for one, two in combinations(lengths, 2)]
    found = norms_tally([(0, lengths)]).layer_stages(0)[0]
    assert found.gms == pytest.approx(fmean(expected), rel=1e-12)
    assert found.norms == pytest.approx(lengths, rel=1e-12)


@given(st.floats(1e-150, 1e150), st.floats(1e-150, 1e150), st.floats(1e-9, 1e9))
def test_magnitude_similarity_does_not_depend_on_the_unit(one, two, unit):
    pair = torch.tensor([one, two], dtype=torch.float64)
    before, after = magnitude_similarities(pair), magnitude_similarities(pair * unit)
    assert 0 <= float(before) <= 1
    assert after.tolist() == pytest.approx(before.tolist(), rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(norms, min_size=3, max_size=3)), min_size=1, max_size=12))
def test_stages_merge_to_the_means_of_the_whole(iterations):
    whole = norms_tally([(0, lengths) for _, lengths in iterations]).layer_stages(0)[0]
    tally = norms_tally(iterations, stages=4)
    measured = tuple(sum(stage == number for stage, _ in iterations) for number in range(4))
    scores = scores_of({"only": tally}, measured, SEVERITIES)
    layer = scores.layers[0]
    assert scores.gds(layer) == scores.gds(None) == pytest.approx(whole.gds, abs=1e-14)
    assert scores.gms(layer) == scores.gms(None) == pytest.approx(whole.gms, rel=1e-12)
    assert scores.norms(layer) == scores.norms(None) == pytest.approx(whole.norms, rel=1e-12)
    assert scores.layer_iterations(layer) == whole.iterations
    stage = iterations[0][0]
    assert scores.gds(layer, stage + 1) == pytest.approx(layer.stages[stage].gds, abs=1e-15)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(norms, min_size=3, max_size=3)), min_size=1, max_size=12), st.data()
)
def test_a_tally_that_was_saved_and_restored_ends_in_the_same_counts(iterations, data):
    cut = data.draw(st.integers(0, len(iterations)))
    tally = ConflictTally(1, 3, 3, SEVERITIES)
    for number, (stage, lengths) in enumerate(iterations):
        if number == cut:
            restored = ConflictTally(1, 3, 3, SEVERITIES)
            restored.restore({name: counts.clone() for name, counts in tally.state().items()})
            tally = restored
        count(tally, stage, [[one * two for two in lengths] for one in lengths])
    straight = norms_tally(iterations, stages=3)
    assert tally.layer_stages(0) == straight.layer_stages(0)
    assert tally.task_iterations() == straight.task_iterations() == (len(iterations),) * 3
    assert tally.pair_iterations() == straight.pair_iterations() == (len(iterations),) * 3


def test_without_a_pair_there_is_no_similarity_and_without_a_gradient_no_norm():
    tally = ConflictTally(1, 3, 1, SEVERITIES)
    count(tally, 0, [[4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [True, False, False], [True, False, True])
    found = tally.layer_stages(0)[0]
    assert (found.pairs, found.iterations, found.gds, found.gms) == (0, 0, None, None)
    assert found.norms == (2.0, None, None)
    assert found.norm_iterations == (1, 0, 0)
    assert tally.task_iterations() == (1, 0, 1)
    assert tally.pair_iterations() == (0, 1, 0)


def test_a_gradient_that_is_not_finite_is_left_out_of_everything():
    nan = float("nan")
    tally = norms_tally([(0, [3.0, 4.0, 1.0])])
    expected = tally.layer_stages(0)[0]
    count(tally, 0, [[9.0, nan, 3.0], [nan, nan, nan], [3.0, nan, 1.0]])
    found = tally.layer_stages(0)[0]
    assert (found.pairs, found.non_finite, found.iterations) == (4, 2, 2)
    assert found.gms == pytest.approx((3 * expected.gms + 2 * 3 / 10) / 4)
    assert found.norms == (3.0, 4.0, 1.0)
    assert found.norm_iterations == (2, 1, 2)


def test_one_gradient_of_zero_is_unlike_all_others_and_two_are_alike():
    assert norms_tally([(0, [0.0, 5.0])]).layer_stages(0)[0].gms == 0.0
    both = norms_tally([(0, [0.0, 0.0])]).layer_stages(0)[0]
    assert (both.gms, both.gds, both.norms) == (1.0, 0.0, (0.0, 0.0))


def test_norms_as_small_and_as_large_as_their_squares_can_be():
    found = norms_tally([(0, [1e-150, 2e-150]), (0, [1e150, 2e150])]).layer_stages(0)[0]
    assert found.gds == pytest.approx(1.0)
    assert found.gms == pytest.approx(0.8)
    assert found.norms == pytest.approx((0.5e150, 1e150))
    subnormal = norms_tally([(0, [1e-160, 2e-160])]).layer_stages(0)[0]
    assert subnormal.norms == pytest.approx((1e-160, 2e-160), rel=1e-3)
    assert subnormal.gms == pytest.approx(0.8, rel=1e-3)
    assert norms_tally([(0, [1e-170, 1.0])]).layer_stages(0)[0].norms == (0.0, 1.0)


def test_an_interrupt_at_any_line_leaves_the_iteration_counted_wholly_or_not_at_all():
    def interrupted_at(line: int) -> tuple[ConflictTally, bool]:
        tally, seen = norms_tally([(0, [1.0, 2.0, 3.0])]), 0

        def trace(frame, event, _):
            nonlocal seen
            if event == "line":
                seen += 1
                if seen == line:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        # What is collected has callbacks, whose interrupts would be lost.
        gc.disable()
        sys.settrace(trace)
        try:
            tally.add(0, torch.ones(1, 3, 3, dtype=torch.float64), torch.ones(1, 3) > 0, torch.ones(3) > 0)
        except KeyboardInterrupt:
            return tally, True
        finally:
            sys.settrace(before)
            gc.enable()
        return tally, False

    line, interrupted = 0, True
    while interrupted:
        line += 1
        tally, interrupted = interrupted_at(line)
        times = tally.stage_iterations()[0]
        assert times in (1, 2)
        assert tally.task_iterations() == tally.pair_iterations() == (times,) * 3
        assert tally.layer_stages(0)[0].pairs == 3 * times
        assert tally.layer_stages(0)[0].norm_iterations == (times,) * 3
        scores_of({"only": tally}, [times], SEVERITIES)
    assert line > 20
    assert times == 2
