"""GradDrop, entry by entry."""

from __future__ import annotations

import pytest
import torch
from torchjd.aggregation import GradDrop

from recon_cli.rules.registry import make_rule
from recon_cli.rules.rule import Observation
from tests.rules.gradients import GRADIENTS

TASKS = ["a", "b", "c"]
SEEN = Observation(torch.ones(3))


def test_each_entry_is_the_sum_of_one_sign():
    rows = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    update = make_rule("graddrop", TASKS, scale="published").combined(rows, SEEN)
    positive, negative = rows.clamp(min=0).sum(0), rows.clamp(max=0).sum(0)
    is_positive = torch.isclose(update, positive, rtol=1e-4, atol=1e-6)
    is_negative = torch.isclose(update, negative, rtol=1e-4, atol=1e-6)
    assert bool((is_positive | is_negative).all())
    assert bool(is_positive[(rows > 0).all(0)].all())
    assert bool(is_negative[(rows < 0).all(0)].all())


def test_the_sign_is_drawn_with_its_purity():
    entry = torch.tensor([3.0, -1, -1])
    rows = entry.unsqueeze(1).expand(3, 20_000)
    update = make_rule("graddrop", TASKS, scale="published").combined(rows, SEEN)
    # (1 + 1 / 5) / 2
    assert float((update == 3).double().mean()) == pytest.approx(0.6, abs=0.02)
    assert set(update.tolist()) == {3.0, -2.0}


def test_the_mean_over_many_draws_is_that_of_torchjd():
    rows = GRADIENTS["conflicting"]
    rule = make_rule("graddrop", TASKS, scale="published")
    ours = torch.stack([rule.combined(rows, SEEN) for _ in range(3000)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.stack([GradDrop()(rows) for _ in range(3000)])
    spread = theirs.std(0) / 3000**0.5
    assert bool(((ours.mean(0) - theirs.mean(0)).abs() <= 6 * spread + 1e-9).all())


def test_all_passes_with_a_leak_of_one():
    rows = GRADIENTS["conflicting"]
    update = make_rule("graddrop", TASKS, leak=1.0).combined(rows, SEEN)
    torch.testing.assert_close(update, rows.mean(0))


def test_absent_tasks_do_not_count_for_the_mean():
    rows = GRADIENTS["parallel"].clone()
    rows[1] = 0
    update = make_rule("graddrop", TASKS).combined(rows, Observation(torch.ones(3), present=(0, 2)))
    torch.testing.assert_close(update, rows[[0, 2]].mean(0))
