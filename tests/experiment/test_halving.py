"""The halves of a batch."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.errors import ReconError
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.halving import halved

Pair = namedtuple("Pair", ["image", "mask"])


def items(number: int, offset: int = 0) -> torch.Tensor:
    """Items that tell their places."""
    return torch.arange(number)[:, None] + offset + torch.zeros(number, 3, dtype=torch.int64)


@given(st.integers(2, 9))
def test_both_have_equally_many_items_of_their_own_with_their_labels(number):
    first, second = halved(Batch(items(number), None), {0: items(number, 100), 2: items(number, 200)[:, 0]})
    half = number // 2
    for part, begin in ((first, 0), (second, half)):
        assert torch.equal(part.batch.inputs, items(half, begin))
        assert set(part.labels) == {0, 2}
        assert torch.equal(part.labels[0], items(half, begin + 100))
        assert torch.equal(part.labels[2], items(half, begin + 200)[:, 0])


def test_all_parts_of_structured_inputs_are_cut_and_keep_their_form():
    inputs = {
        "pair": Pair(items(4), items(4, 10)),
        "texts": ["a", "b", "c", "d"],
        "several": [items(4, 20), (items(4, 30), None)],
        "factor": torch.tensor(2.0),
        "mode": "slow",
        "size": (4, 5),
        "flag": True,
    }
    first, second = halved(Batch(inputs, None), {})
    found = second.batch.inputs
    assert isinstance(found["pair"], Pair)
    assert torch.equal(found["pair"].mask, items(2, 12))
    assert found["texts"] == ["c", "d"]
    assert torch.equal(found["several"][1][0], items(2, 32))
    assert found["several"][1][1] is None
    assert [found[name] for name in ("mode", "size", "flag")] == ["slow", (4, 5), True]
    assert float(found["factor"]) == 2
    assert first.batch.inputs["texts"] == ["a", "b"]


def test_what_is_written_into_a_half_is_not_written_into_the_batch():
    batch = Batch(items(4), None)
    first, _ = halved(batch, {})
    first.batch.inputs.fill_(7)
    assert torch.equal(batch.inputs, items(4))


def test_one_item_has_no_halves():
    assert halved(Batch(items(1), None), {0: items(1)}) is None


@pytest.mark.parametrize(
    ("inputs", "label", "words"),
    [
        ("a text", items(4), "hold no tensor of items"),
        (torch.tensor(1.0), items(4), "hold no tensor of items"),
        ((items(4), items(3)), items(4), r"the inputs hold a tensor of shape \(3, 3\), not of 4 items"),
        (items(4), items(8), r"the labels hold a tensor of shape \(8, 3\), not of 4 items"),
        ((items(4), object()), items(4), "the inputs hold a `object`"),
        ((items(4), {1, 2}), items(4), "the inputs hold a `set`"),
    ],
)
def test_what_has_no_items_in_common_is_refused(inputs, label, words):
    with pytest.raises(ReconError, match=f"a batch cannot be halved: .*{words}") as refusal:
        halved(Batch(inputs, None), {0: label})
    assert "halves_every" in refusal.value.hint


def test_so_is_a_label_that_does_not_fit_a_single_item():
    with pytest.raises(ReconError, match="not of 1 items"):
        halved(Batch(items(1), None), {0: items(2)})
