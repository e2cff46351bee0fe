"""Absolute and relative errors, against torchmetrics and numpy."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.metrics.registry import make_metric
from tests.metrics.examples import Pair, depths

SEEDS = st.integers(0, 10_000)


def value(name: str, pair: Pair, **kwargs: object) -> float:
    metric = make_metric(name, kwargs)
    metric.update(*pair)
    return metric.compute()


@given(SEEDS)
def test_the_absolute_error_is_that_of_torchmetrics_where_labels_are_valid(seed):
    output, label = depths(3, seed)
    valid = label.isfinite() & (label != 0)
    metric = torchmetrics.MeanAbsoluteError().set_dtype(torch.float64)
    expected = float(metric(output[valid].double(), label[valid].double()))
    assert value("abs_error", (output, label)) == pytest.approx(expected, rel=1e-6)


@given(SEEDS)
def test_the_relative_error_is_a_mean_of_fractions(seed):
    output, label = (tensor.double().numpy() for tensor in depths(3, seed))
    valid = numpy.isfinite(label) & (label != 0)
    expected = numpy.mean(numpy.abs(output[valid] / label[valid] - 1))
    assert value("rel_error", depths(3, seed)) == pytest.approx(expected, rel=1e-9)


def test_every_finite_label_counts_where_none_is_ignored():
    pair = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 0.0, math.nan])
    assert value("abs_error", pair, ignore=None) == 1.5
    assert math.isnan(value("abs_error", pair))


def test_an_ignored_label_is_meant_in_the_precision_of_the_labels():
    pair = torch.tensor([1.0, 2.0]), torch.tensor([0.1, 1.0])
    assert pair[1].double()[0] != 0.1
    assert value("abs_error", pair, ignore=0.1) == 1.0
    assert value("rel_error", pair, ignore=0.1) == 1.0


def test_a_label_of_zero_has_no_relative_error():
    pair = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 1.0, -1.0])
    assert value("rel_error", pair, ignore=None) == (1 + 6) / 2
    assert value("rel_error", pair, ignore=-1.0) == 1.0


def test_negative_labels_are_errors_of_their_size():
    assert value("rel_error", (torch.tensor([-1.0]), torch.tensor([-2.0]))) == 0.5


def test_an_output_that_is_nan_shows_but_where_there_is_no_label():
    assert math.isnan(value("abs_error", (torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 1.0]))))
    assert value("abs_error", (torch.tensor([math.nan, 1.5]), torch.tensor([0.0, 1.0]))) == 0.5


def test_it_does_not_drift_over_many_batches():
    """In float32 the sum would stop growing at 2^24 times the error."""
    metric = make_metric("abs_error", {"ignore": None})
    label = torch.zeros(1 << 20)
    for _ in range(20):
        metric.update(torch.full_like(label, 0.1), label)
    assert metric.compute() == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)
