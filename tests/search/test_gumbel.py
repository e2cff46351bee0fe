"""Draws by a Gumbel-softmax: how often each entry is the highest, and what their gradient is."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.search.gumbel import gumbel_noise, inverse_root, linear, relaxed


@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_an_entry_is_drawn_as_often_as_the_softmax_says(temperature):
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    number = 40_000
    drawn = relaxed(logits, gumbel_noise((number, 4)), temperature, hard=True).mean(0)
    probabilities = logits.softmax(0)
    # Five standard errors.
    assert bool(((drawn - probabilities).abs() < 5 * (probabilities * (1 - probabilities) / number).sqrt()).all())


def test_hard_draws_are_one_hot_and_have_the_gradient_of_soft_ones():
    torch.manual_seed(0)
    logits = torch.randn(50, 4, requires_grad=True)
    noise, direction = gumbel_noise((50, 4)), torch.randn(50, 4)
    soft, hard = (relaxed(logits, noise, 0.7, hard=hard) for hard in (False, True))
    assert set(hard.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.argmax(1), soft.argmax(1))
    assert torch.equal(hard.sum(1), torch.ones(50))
    of_soft, of_hard = (torch.autograd.grad((each * direction).sum(), logits)[0] for each in (soft, hard))
    assert torch.equal(of_soft, of_hard)
    by_hand = ((logits + noise) / 0.7).exp()
    torch.testing.assert_close(soft, by_hand / by_hand.sum(1, keepdim=True))


def test_one_seed_gives_the_same_draws():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(gumbel_noise((3, 3)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("annealing", [linear, inverse_root])
@given(st.floats(0.01, 10), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=2))
def test_temperatures_fall_from_the_first_to_the_last(annealing, first, share, parts):
    last = first * (0.01 + 0.99 * share)
    assert annealing(first, last, 0.0) == pytest.approx(first)
    assert annealing(first, last, 1.0) == pytest.approx(last)
    values = [annealing(first, last, part) for part in sorted(parts)]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(values))


def test_an_inverse_root_is_that_of_libmtl():
    for epoch in range(100):
        assert inverse_root(5.0, 0.5, epoch / 99) == pytest.approx(100 / 20 / math.sqrt(epoch + 1))
