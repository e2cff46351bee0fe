"""The measures over time, against numpy on what was measured in every single iteration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.artifacts.series import MOST_WINDOWS
from recon_cli.relations.courses import courses_of, windows_up_to
from tests.relations.making import cosines, gradients, scores_of_gradients


def similarities(layer):
    """[iterations, pairs], of magnitudes."""
    norms = np.linalg.norm(layer, axis=-1)
    one, other = norms[:, :, None], norms[:, None, :]
    full = 2 * one * other / (one**2 + other**2)
    rows, columns = np.triu_indices(layer.shape[1], 1)
    return full[:, rows, columns]


@pytest.mark.parametrize("iterations", [7, 40, MOST_WINDOWS, 300])
def test_gds_and_gms_are_those_of_the_raw_gradients(iterations):
    layer = gradients(iterations)
    scores = scores_of_gradients(layer)
    ends = np.cumsum(scores.windows)
    gds, gms = courses_of(scores, None)
    assert (gds.measure, gms.measure) == ("GDS", "GMS")
    for course, raw in ((gds, cosines(layer)), (gms, similarities(layer))):
        each, begins = raw.mean(1), np.concatenate([[0], ends[:-1]])
        assert course.values == pytest.approx([each[a:b].mean() for a, b in zip(begins, ends, strict=True)], abs=2e-6)
        first = [max(begin for begin in begins if end - begin >= min(iterations / 10, end)) for end in ends]
        expected = [each[begin:end].mean() for begin, end in zip(first, ends, strict=True)]
        assert course.smoothed == pytest.approx(expected, abs=2e-6)
        last = max(begin for begin in begins if iterations - begin >= min(50, iterations))
        assert course.last == pytest.approx(each[last:].mean(), abs=2e-6)


def test_where_every_window_is_one_iteration_it_is_the_moving_average():
    layer = gradients(120)
    gds, _ = courses_of(scores_of_gradients(layer), None)
    expected = np.convolve(cosines(layer).mean(1), np.full(12, 1 / 12), "valid")
    assert gds.smoothed[11:] == pytest.approx(expected, abs=2e-6)


def test_a_layer_has_its_own():
    one, other = gradients(30), gradients(30, seed=1)
    scores = scores_of_gradients(one, other)
    gds, _ = courses_of(scores, scores.layers[1])
    assert gds.last == pytest.approx(cosines(other).mean(), abs=2e-6)


def test_windows_count_by_what_was_measured_in_them_and_not_at_all_without_that():
    scores = scores_of_gradients(gradients(4, pulls=(1, 1)))
    series = scores.trunk_series.model_copy(update={"pairs": (3, 0, 1, 0), "gds": (0.5, None, -0.5, None)})
    gds, _ = courses_of(scores.model_copy(update={"trunk_series": series}), None)
    assert gds.values == (0.5, None, -0.5, None)
    assert gds.smoothed == (0.5, None, -0.5, None)
    assert gds.last == 0.25


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.data())
def test_no_fewer_windows_hold_as_many_iterations(lengths, data):
    place, least = data.draw(st.integers(0, len(lengths) - 1)), data.draw(st.integers(1, 100))
    part = windows_up_to(place, lengths, least)
    assert part.stop == place + 1
    assert sum(lengths[part]) >= least or part.start == 0
    assert sum(lengths[part.start + 1 : part.stop]) < least


def test_fd_is_that_of_the_profile(recon, config):
    from tests.conftest import read_scores

    path = config(profile={"iterations": 6, "features": ["body"]})
    recon("profile", path, "-o", "scores.json", "-q").succeeds()
    found = recon("tasks", "scores.json", "--json").succeeds().document
    gds, gms, fd = found["courses"]
    assert [(each["measure"], each["feature"]) for each in (gds, gms, fd)] == [
        ("GDS", None), ("GMS", None), ("FD", "body"),
    ]  # fmt: skip
    scores = read_scores("scores.json")
    assert fd["last"] == pytest.approx(scores.fd(scores.features[0]), abs=2e-6)
    assert fd["values"] == fd["smoothed"] == list(scores.features[0].series.fd)
    assert "FD body" in recon("tasks", "scores.json").succeeds().out
