"""Losses of dense tasks, against their definitions pixel by pixel, and where no pixel has a label."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from recon_cli.errors import ReconError
from recon_cli.losses import balanced_binary_cross_entropy, cross_entropy, depth_l1, normal_dot, normal_l1


def pixels(values: torch.Tensor) -> list[list[float]]:
    """The channels of each pixel."""
    return values.movedim(1, -1).flatten(0, -2).tolist()


def random(channels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hidden(label: torch.Tensor, void: float) -> torch.Tensor:
    """A label that some pixels do not have."""
    label = label.clone()
    label[0, :, 1] = void
    label[1, :, :, 3] = void
    return label


def test_depth_is_compared_where_it_is_known():
    output, label = random(1), hidden(random(1, 1).abs() + 0.1, 0)
    known = [abs(ours - theirs) for (ours,), (theirs,) in zip(pixels(output), pixels(label), strict=True) if theirs]
    assert len(known) == 40 - 5 - 4
    assert depth_l1(output, label).item() == pytest.approx(sum(known) / len(known), rel=1e-12)


def test_normals_are_compared_where_any_part_of_them_is_known():
    output, label = F.normalize(random(3), dim=1), hidden(F.normalize(random(3, 1), dim=1), 0)
    # Its parts add up to 0, and it is a normal all the same.
    label[0, :, 0, 0] = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / math.sqrt(2)
    pairs = [(ours, theirs) for ours, theirs in zip(pixels(output), pixels(label), strict=True) if any(theirs)]
    assert len(pairs) == 40 - 5 - 4
    dots = [1 - sum(a * b for a, b in zip(*pair, strict=True)) for pair in pairs]
    assert normal_dot(output, label).item() == pytest.approx(sum(dots) / len(dots), rel=1e-12)
    lengths = torch.tensor([3.0, 0.5], dtype=torch.float64).view(2, 1, 1, 1)
    distances = [sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairs]
    assert normal_l1(lengths * output, label).item() == pytest.approx(sum(distances) / len(distances), rel=1e-12)
    assert normal_l1(7 * label, label).item() == pytest.approx(0, abs=1e-12)
    assert normal_dot(label, label).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("weight", [None, 0.95])
def test_the_rarer_answer_weighs_more(weight):
    output, label = random(1), hidden((random(1, 1) > 0.8).double(), 255)
    known = [(z, y) for (z,), (y,) in zip(pixels(output), pixels(label), strict=True) if y != 255]
    assert 0 < sum(y for _, y in known) < len(known) / 2
    w = sum(y == 0 for _, y in known) / len(known) if weight is None else weight
    p = [1 / (1 + math.exp(-z)) for z, _ in known]
    terms = [w * -math.log(p) if y else (1 - w) * -math.log(1 - p) for p, (_, y) in zip(p, known, strict=True)]
    loss = balanced_binary_cross_entropy(output, label, positive_weight=weight)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_both_answers_have_the_same_weight_altogether():
    output, label = torch.zeros(1, 1, 10, 10, requires_grad=True), torch.zeros(1, 1, 10, 10)
    label[0, 0, 0, :5] = 1
    balanced_binary_cross_entropy(output, label).backward()
    assert output.grad[label == 1].sum().item() == pytest.approx(-output.grad[label == 0].sum().item(), rel=1e-5)


def test_cross_entropy_is_that_of_pytorch():
    output = random(7)
    label = torch.randint(7, (2, 4, 5), generator=torch.Generator().manual_seed(2))
    assert torch.allclose(cross_entropy(output, label), F.cross_entropy(output, label), rtol=1e-12)
    label[0, :2] = -1
    expected = F.cross_entropy(output, label, ignore_index=-1)
    assert torch.allclose(cross_entropy(output, label, ignore_index=-1), expected, rtol=1e-12)
    assert torch.equal(
        cross_entropy(output, label.float(), ignore_index=-1), cross_entropy(output, label, ignore_index=-1)
    )
    attributes = torch.tensor([1.0, 0.0, 1.0])
    assert torch.allclose(
        cross_entropy(output[0, :3, :2, 0], attributes), F.cross_entropy(output[0, :3, :2, 0], attributes.long())
    )


@pytest.mark.parametrize(
    ("loss", "channels", "label"),
    [
        (depth_l1, 1, torch.zeros(2, 1, 4, 5)),
        (normal_dot, 3, torch.zeros(2, 3, 4, 5)),
        (normal_l1, 3, torch.zeros(2, 3, 4, 5)),
        (balanced_binary_cross_entropy, 1, torch.full((2, 1, 4, 5), 255.0)),
        (balanced_binary_cross_entropy, 1, torch.zeros(2, 1, 4, 5)),
        (balanced_binary_cross_entropy, 1, torch.ones(2, 1, 4, 5)),
        (partial(balanced_binary_cross_entropy, positive_weight=0.95), 1, torch.full((2, 1, 4, 5), 255.0)),
        (partial(cross_entropy, ignore_index=255), 7, torch.full((2, 4, 5), 255)),
    ],
)
def test_where_nothing_is_known_loss_and_gradient_are_zero(loss: Callable, channels: int, label: torch.Tensor):
    output = random(channels).float()
    output[0, :, 0, 0] = 0
    output.requires_grad_()
    value = loss(output, label)
    value.backward()
    assert value.item() == 0
    assert torch.equal(output.grad, torch.zeros_like(output))


@pytest.mark.parametrize("loss", [depth_l1, normal_dot, normal_l1, balanced_binary_cross_entropy])
def test_shapes_that_differ_are_refused(loss):
    with pytest.raises(ReconError, match=r"the output is of shape \(2, 1, 4, 5\), but its label of \(2, 4, 5\)"):
        loss(torch.zeros(2, 1, 4, 5), torch.zeros(2, 4, 5))


@pytest.mark.parametrize(
    ("loss", "label"),
    [
        (depth_l1, hidden(random(1, 1), 0)),
        (normal_dot, hidden(random(3, 1), 0)),
        (normal_l1, hidden(F.normalize(random(3, 1), dim=1), 0)),
        (balanced_binary_cross_entropy, hidden((random(1, 1) > 0).double(), 255)),
    ],
)
def test_gradients_are_those_of_finite_differences(loss, label):
    output = random(label.shape[1]).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: loss(each, label), (output,))
