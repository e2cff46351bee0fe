"""What holds for every metric."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon_cli.errors import ReconError
from recon_cli.metrics.registry import METRICS, make_metric
from tests.metrics.examples import EXAMPLES, Example

each = pytest.mark.parametrize("example", EXAMPLES, ids=str)


def value_of(example: Example, output: torch.Tensor, label: torch.Tensor) -> float:
    """The metric of everything in one batch."""
    metric = make_metric(example.name, example.kwargs)
    metric.update(output, label)
    return metric.compute()


def test_there_is_an_example_of_every_metric():
    assert {example.name for example in EXAMPLES} == set(METRICS)


@each
@settings(max_examples=15)
@given(items=st.integers(2, 12), seed=st.integers(0, 1000), draw=st.data())
def test_no_division_into_batches_and_ranks_and_no_order_changes_it(example, items, seed, draw):
    output, label = example.data(items, seed)
    order = draw.draw(st.permutations(range(items)))
    cuts = sorted(draw.draw(st.sets(st.integers(1, items - 1))))
    # The last rank may have no batch at all.
    ranks = [make_metric(example.name, example.kwargs) for _ in range(3)]
    for begin, end in zip([0, *cuts], [*cuts, items], strict=True):
        rows = torch.tensor(order[begin:end])
        draw.draw(st.sampled_from(ranks)).update(output[rows], label[rows])
    states = [rank.state() for rank in ranks]
    ranks[0].merge(states)
    expected = value_of(example, output, label)
    assert ranks[0].compute() == pytest.approx(expected, rel=1e-12, nan_ok=True)
    ranks[1].merge(states[::-1])
    assert ranks[1].compute() == pytest.approx(expected, rel=1e-12, nan_ok=True)


@each
def test_it_goes_on_from_what_ranks_have_counted(example):
    output, label = example.data(9, 1)
    metric, other = (make_metric(example.name, example.kwargs) for _ in range(2))
    metric.update(output[:3], label[:3])
    other.update(output[3:6], label[3:6])
    metric.merge([metric.state(), other.state()])
    metric.update(output[6:], label[6:])
    assert metric.compute() == pytest.approx(value_of(example, output, label), rel=1e-12)


@each
def test_states_have_the_same_form_on_every_rank(example):
    empty, full = (make_metric(example.name, example.kwargs) for _ in range(2))
    full.update(*example.data(4, 2))
    assert {name: (value.dtype, value.dim()) for name, value in empty.state().items()} == {
        name: (value.dtype, value.dim()) for name, value in full.state().items()
    }


@each
def test_of_nothing_it_is_nan(example):
    metric = make_metric(example.name, example.kwargs)
    assert math.isnan(metric.compute())
    output, label = example.data(2, 3)
    metric.update(output[:0], label[:0])
    assert math.isnan(metric.compute())


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_outputs_of_any_precision_are_taken_as_they_are(example, dtype):
    output, label = example.data(6, 4)
    rounded = output.to(dtype)
    assert value_of(example, rounded, label) == pytest.approx(
        value_of(example, rounded.double(), label.double()), rel=1e-12
    )


@each
def test_it_records_no_gradient(example):
    output, label = example.data(4, 5)
    metric = make_metric(example.name, example.kwargs)
    metric.update(output.requires_grad_(), label)
    assert not any(value.requires_grad for value in metric.state().values())


@each
def test_what_it_was_given_stays_as_it_is(example):
    output, label = example.data(4, 6)
    before = output.clone(), label.clone()
    value_of(example, output, label)
    assert torch.equal(output, before[0])
    assert torch.equal(label, before[1])


@each
def test_it_needs_no_value_to_count_a_batch_elsewhere_than_on_a_cpu(example):
    """Whatever would stop a GPU is an error on the device `meta`, where tensors have no values."""
    output, label = (value.to("meta") for value in example.data(4, 7))
    metric = make_metric(example.name, example.kwargs)
    for _ in range(2):
        metric.update(output, label)
    with pytest.raises((NotImplementedError, RuntimeError)):
        metric.compute()


@each
@pytest.mark.parametrize("cut", [lambda label: label[:-1], lambda label: label.unsqueeze(-1), lambda label: label[0]])
def test_shapes_that_do_not_fit_are_refused(example, cut):
    output, label = example.data(4, 8)
    with pytest.raises(ReconError, match=r"\(4, .* the label of shape \(|shape \(4,\) and the label"):
        make_metric(example.name, example.kwargs).update(output, cut(label))


@each
def test_something_else_than_tensors_is_refused(example):
    output, label = example.data(4, 9)
    metric = make_metric(example.name, example.kwargs)
    with pytest.raises(ReconError, match="the output is of type `tuple`"):
        metric.update((output,), label)
    with pytest.raises(ReconError, match="the label is of type `list`"):
        metric.update(output, label.tolist())
