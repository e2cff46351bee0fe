"""Accuracy, intersection over union and F1, against torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics import classification as reference

from recon_cli.errors import ReconError
from recon_cli.metrics.registry import make_metric
from tests.metrics.examples import Pair, binary, one_class_each, segments

SEEDS = st.integers(0, 10_000)
NAN = float("nan")


def value(name: str, pair: Pair, **kwargs: object) -> float:
    metric = make_metric(name, kwargs)
    metric.update(*pair)
    return metric.compute()


def referred(metric: reference.MulticlassStatScores, pair: Pair) -> float:
    metric = metric.double()
    metric.set_dtype(torch.float64)
    return float(metric(*pair))


@given(SEEDS)
def test_accuracy_is_that_of_torchmetrics(seed):
    pair = one_class_each(30, seed)
    expected = referred(reference.MulticlassAccuracy(num_classes=4, average="micro"), pair)
    assert value("accuracy", pair) == pytest.approx(expected, abs=1e-6)


@given(SEEDS)
def test_pixel_accuracy_is_that_of_torchmetrics(seed):
    pair = segments(3, seed)
    kwargs = {"num_classes": 5, "average": "micro", "ignore_index": -1}
    assert value("pixel_accuracy", pair) == pytest.approx(
        referred(reference.MulticlassAccuracy(**kwargs), pair), abs=1e-6
    )


@given(SEEDS)
def test_binary_accuracy_is_that_of_torchmetrics(seed):
    scores, labels = binary(20, seed)
    # In torchmetrics a logit of zero is a probability of one half, which is not above the threshold.
    expected = referred(reference.BinaryAccuracy(), (scores.sigmoid(), labels))
    assert value("accuracy", (scores, labels)) == pytest.approx(expected, abs=1e-6)


@given(SEEDS, st.sampled_from([-1, 2]))
def test_the_mean_intersection_over_union_is_that_of_torchmetrics(seed, ignore):
    output, label = segments(2, seed)
    if ignore != -1:
        label = label.clamp(min=0)
    expected = referred(reference.MulticlassJaccardIndex(num_classes=5, ignore_index=ignore), (output, label))
    assert value("miou", (output, label), classes=5, ignore=ignore) == pytest.approx(expected, abs=1e-6)


@given(SEEDS)
def test_macro_f1_is_that_of_torchmetrics(seed):
    pair = segments(2, seed)
    expected = referred(reference.MulticlassF1Score(num_classes=5, average="macro", ignore_index=-1), pair)
    assert value("f1", pair, average="macro", classes=5, ignore=-1) == pytest.approx(expected, abs=1e-6)


@given(SEEDS)
def test_binary_f1_is_that_of_torchmetrics(seed):
    scores, labels = binary(20, seed)
    expected = referred(reference.BinaryF1Score(), (scores.sigmoid(), labels))
    assert value("f1", (scores, labels)) == pytest.approx(expected, abs=1e-6)


def test_binary_f1_of_two_classes_is_that_of_their_logit():
    logits, labels = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2
    assert value("f1", (logits, labels)) == value("f1", (logits[:, 1] - logits[:, 0], labels))


def test_intersection_and_union_are_of_all_batches_together():
    # Class 0: 1 of 1, then 0 of 3; the mean over batches would be another one.
    metric = make_metric("miou", {"classes": 2})
    metric.update(torch.tensor([-1.0]), torch.tensor([0]))
    metric.update(torch.tensor([-1.0, -1.0, 1.0]), torch.tensor([1, 1, 0]))
    assert metric.compute() == (1 / 4 + 0 / 3) / 2


def test_a_class_that_is_nowhere_is_left_out_of_means():
    logits = torch.eye(5)[[0, 0, 1]]
    labels = torch.tensor([0, 1, 1])
    assert value("miou", (logits, labels), classes=5) == 0.5
    assert value("f1", (logits, labels), classes=5, average="macro") == pytest.approx(2 / 3)


@pytest.mark.parametrize(("name", "kwargs"), [("miou", {"classes": 3}), ("f1", {"classes": 3, "average": "macro"})])
def test_a_class_that_is_ignored_is_left_out_of_means(name, kwargs):
    # The item of class 1 that is taken for class 0 counts against class 1 alone.
    logits = torch.eye(3)[[0, 0, 1, 2]]
    labels = torch.tensor([0, 1, 1, 2])
    expected = {"miou": (1 / 2 + 1) / 2, "f1": (2 / 3 + 1) / 2}[name]
    assert value(name, (logits, labels), ignore=0, **kwargs) == pytest.approx(expected)


def test_f1_of_negatives_alone_is_nan():
    assert math.isnan(value("f1", (torch.tensor([-1.0, -2.0]), torch.tensor([0, 0]))))


@pytest.mark.parametrize(
    ("output", "label"),
    [
        (torch.tensor([NAN, NAN, NAN, 1.0]), torch.tensor([0, 1, 1, 1])),
        (torch.tensor([[NAN, NAN], [0.0, NAN], [NAN, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 1, 1])),
    ],
)
def test_nan_is_no_class_and_so_it_is_wrong(output, label):
    assert value("accuracy", (output, label)) == 0.25
    assert value("miou", (output, label), classes=2) == (0 / 1 + 1 / 3) / 2
    assert value("f1", (output, label)) == 2 * 1 / (3 + 1)


def test_a_logit_of_zero_means_class_0():
    assert value("accuracy", (torch.zeros(3), torch.tensor([0, 0, 1]))) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.float64])
def test_labels_of_any_type_name_classes(dtype):
    output, label = segments(2, 1)
    label = label.clamp(min=0)
    assert value("miou", (output, label.to(dtype)), classes=5) == value("miou", (output, label), classes=5)


def test_what_is_ignored_need_not_fit_the_label_type():
    """-1 is 255 in the type uint8, which is no label to be ignored."""
    output, label = segments(2, 1)
    label = label.clamp(min=0).to(torch.uint8)
    label[0, 0, 0] = 255
    with pytest.raises(ReconError, match="name no class of the output in 1 place;"):
        value("pixel_accuracy", (output, label))
    assert value("pixel_accuracy", (output, label), ignore=255) >= 0


@pytest.mark.parametrize("wrong", [5, -2, 1.5, NAN, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("pixel_accuracy", {}), ("miou", {"classes": 5}), ("f1", {"classes": 5, "average": "macro", "ignore": -1})],
)
def test_labels_of_no_class_are_refused_and_not_counted(name, kwargs, wrong):
    output, label = segments(2, 1)
    metric = make_metric(name, kwargs)
    metric.update(output, label)
    before = metric.compute()
    label = label.double()
    label[0, 1, 1] = label[1, 2, 2] = wrong
    with pytest.raises(
        ReconError, match="name no class of the output in 2 places; classes are whole numbers"
    ) as caught:
        metric.update(output, label)
    assert "abs_error" in (caught.value.hint or "")
    assert metric.compute() == before


@pytest.mark.parametrize("name", ["accuracy", "miou"])
def test_labels_that_a_gpu_has_counted_are_refused_in_the_end(name, monkeypatch):
    """On every rank, whichever of them has met the labels."""
    kwargs = {"classes": 2} if name == "miou" else {}
    ranks = [make_metric(name, kwargs) for _ in range(2)]
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr("recon_cli.metrics.classes.refuse_outside", lambda _: None)
        ranks[0].update(torch.zeros(3), torch.tensor([0, 1, 2]))
        ranks[1].update(torch.zeros(3), torch.tensor([0, 1, 1]))
    states = [rank.state() for rank in ranks]
    for rank in ranks:
        rank.merge(states)
        with pytest.raises(ReconError, match="name no class of the output in 1 place;"):
            rank.compute()


def test_a_dimension_of_one_class_is_refused():
    with pytest.raises(ReconError, match=r"\(3, 1\) has 1 class") as raised:
        value("accuracy", (torch.zeros(3, 1), torch.tensor([0, 1, 1])))
    assert "in the shape of the label" in str(raised.value.hint)


def test_another_number_of_classes_is_refused():
    with pytest.raises(ReconError, match=r"\(2, 5, 3, 4\) has 5 classes, but the metric was made for 13"):
        value("miou", segments(2, 1), classes=13)
