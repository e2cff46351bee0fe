"""The area under the ROC curve, against counting pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.errors import ReconError
from recon_cli.metrics.auc import area_under_curve

# Few different scores, so that many are tied, and any others.
SCORES = st.integers(-2, 2).map(float) | st.floats(allow_nan=False, width=32)
EXAMPLES = st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


def counted(scores: list[float], labels: list[bool]) -> float:
    """The share of pairs in order, one pair at a time."""
    positive = [score for score, label in zip(scores, labels, strict=True) if label]
    negative = [score for score, label in zip(scores, labels, strict=True) if not label]
    return sum((p > n) + 0.5 * (p == n) for p in positive for n in negative) / (len(positive) * len(negative))


@given(EXAMPLES)
def test_it_is_the_share_of_pairs_in_order(pairs):
    scores, labels = map(list, zip(*pairs, strict=True))
    assert area_under_curve(torch.tensor(scores), torch.tensor(labels)) == counted(scores, labels)
    assert area_under_curve(torch.tensor(scores), torch.tensor(labels, dtype=torch.float32)) == counted(scores, labels)


@given(EXAMPLES)
def test_turning_the_scores_around_turns_it_around(pairs):
    scores, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert area_under_curve(-scores, labels) == pytest.approx(1 - area_under_curve(scores, labels), abs=1e-15)
    assert area_under_curve(-scores, ~labels) == area_under_curve(scores, labels)


def test_it_is_exact_for_many_scores():
    number = 200_000
    scores = torch.arange(number, dtype=torch.float64)
    labels = scores % 2
    # Each of the n positives beats the negatives below it: 1 + 2 + ... + n of n * n.
    half = number // 2
    assert area_under_curve(scores, labels) == (half + 1) / (2 * half)


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([0.1, 0.2], [1, 1], "2 positive and 0 negative"),
        ([0.1, 0.2], [0, 0], "0 positive and 2 negative"),
        ([], [], "0 positive and 0 negative"),
        ([0.1, float("nan")], [0, 1], "NaN"),
        ([0.1, 0.2], [0, 2], "something else than 0 and 1"),
        ([0.1, 0.2], [0], "one label for each"),
        ([[0.1, 0.2]], [[0, 1]], "one label for each"),
    ],
)
def test_what_has_no_area_is_refused(scores, labels, words):
    with pytest.raises(ReconError, match=words):
        area_under_curve(torch.tensor(scores), torch.tensor(labels))
