"""Angles between normals, against numpy."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.errors import ReconError
from recon_cli.metrics.registry import make_metric
from tests.metrics.examples import Pair, normals

SEEDS = st.integers(0, 10_000)


def value(name: str, pair: Pair, **kwargs: object) -> float:
    metric = make_metric(name, kwargs)
    metric.update(*pair)
    return metric.compute()


def angles(pair: Pair) -> numpy.ndarray:
    """The angles that count, by the arc tangent of |a x b| / a.b."""
    output, label = (tensor.double().movedim(1, -1).reshape(-1, 3).numpy() for tensor in pair)
    valid = (label != 0).any(1)
    output, label = output[valid], label[valid]
    return numpy.degrees(numpy.arctan2(numpy.linalg.norm(numpy.cross(output, label), axis=1), (output * label).sum(1)))


@given(SEEDS)
def test_the_mean_is_that_of_the_angles(seed):
    assert value("angle_mean", normals(3, seed)) == pytest.approx(angles(normals(3, seed)).mean(), abs=1e-6)


@given(SEEDS, st.floats(1, 180))
def test_the_fraction_within_is_that_of_the_angles(seed, degrees):
    expected = (angles(normals(3, seed)) < degrees).mean()
    assert value("angle_within", normals(3, seed), degrees=degrees) == pytest.approx(expected, abs=1e-12)


@given(SEEDS, st.integers(1, 5))
def test_the_median_is_that_of_the_angles_within_a_thousandth(seed, items):
    assert value("angle_median", normals(items, seed)) == pytest.approx(
        numpy.median(angles(normals(items, seed))), abs=1e-3
    )


def rotated(degrees: torch.Tensor) -> Pair:
    """Vectors [N, 3, 1] at these angles to (1, 0, 0)."""
    radians = degrees.double().deg2rad()
    output = torch.stack([radians.cos(), radians.sin(), torch.zeros_like(radians)], 1).unsqueeze(2)
    return output, torch.tensor([1.0, 0, 0], dtype=torch.float64).view(1, 3, 1).expand_as(output)


@given(st.lists(st.floats(0, 180), min_size=1, max_size=9))
def test_the_median_of_any_angles_is_within_a_thousandth(degrees):
    found = value("angle_median", rotated(torch.tensor(degrees, dtype=torch.float64)))
    assert found == pytest.approx(numpy.median(degrees), abs=1e-3)


def test_the_median_of_many_angles_is_within_a_thousandth():
    degrees = 180 * torch.rand(1_000_001, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2
    metric = make_metric("angle_median", {})
    for part in degrees.split(100_000):
        metric.update(*rotated(part))
    assert metric.compute() == pytest.approx(float(degrees.median()), abs=1e-3)
    assert sum(tensor.nbytes for tensor in metric.state().values()) < 3e6


def test_the_length_of_vectors_does_not_matter():
    output, label = rotated(torch.tensor([30.0]))
    for factor in (1e-30, 1e30):
        assert value("angle_mean", (output * factor, label / factor)) == pytest.approx(30)


def test_a_prediction_of_zeros_is_at_a_right_angle_to_all():
    pair = torch.zeros(1, 3, 2), torch.ones(1, 3, 2)
    assert value("angle_mean", pair) == pytest.approx(90)
    assert value("angle_median", pair) == pytest.approx(90, abs=1e-3)


def test_pixels_without_a_label_do_not_count():
    output, label = rotated(torch.tensor([10.0, 50.0, 90.0]))
    label = label.clone()
    label[1], label[2, 0] = 0, math.nan
    output[2] = math.nan
    assert value("angle_mean", (output, label)) == pytest.approx(10)
    assert value("angle_median", (output, label)) == pytest.approx(10, abs=1e-3)
    assert value("angle_within", (output, label), degrees=11.25) == 1


def test_a_prediction_that_is_nan_is_not_hidden():
    output, label = rotated(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    output[0] = math.nan
    assert math.isnan(value("angle_mean", (output, label)))
    assert math.isnan(value("angle_median", (output, label)))
    assert value("angle_within", (output, label), degrees=30) == 0.75


def test_vectors_of_other_lengths_are_refused():
    with pytest.raises(ReconError, match=r"\(2, 4, 5, 5\); vectors \[N, 3, ...\] were expected"):
        value("angle_mean", (torch.ones(2, 4, 5, 5), torch.ones(2, 4, 5, 5)))
