"""Properties of the cosines of task pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.profiling.cosines import cosines


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 2**31))
def test_cosines_do_not_depend_on_the_scale_of_a_task(tasks, size, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
    scale = 10.0 ** torch.randint(-12, 13, (tasks, 1), generator=generator).double()
    before, after = (cosines(r @ r.T) for r in (rows, rows * scale))
    assert after.tolist() == pytest.approx(before.tolist(), abs=1e-9)


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_turning_a_gradient_round_turns_the_signs_of_its_cosines(tasks, seed):
    rows = torch.randn(tasks, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turned = rows.clone()
    turned[0] *= -1
    before, after = cosines(rows @ rows.T), cosines(turned @ turned.T)
    assert after[: tasks - 1].tolist() == pytest.approx((-before[: tasks - 1]).tolist())
    assert after[tasks - 1 :].tolist() == before[tasks - 1 :].tolist()


def test_a_zero_gradient_has_cosine_zero():
    assert cosines(torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)).tolist() == [0.0]


def test_parallel_and_opposite_gradients_have_cosines_one_and_minus_one():
    rows = torch.tensor([[3e-9, 4e-9], [6e9, 8e9], [-3.0, -4.0]], dtype=torch.float64)
    assert cosines(rows @ rows.T).tolist() == pytest.approx([1.0, -1.0, -1.0])


def test_a_gradient_that_is_not_finite_has_cosine_nan():
    rows = torch.tensor([[1.0, float("inf")], [1.0, 2.0]], dtype=torch.float64)
    assert cosines(rows @ rows.T).isnan().all()


def test_a_zero_gradient_beside_one_that_is_not_finite_has_cosine_nan():
    rows = torch.tensor([[0.0, 0.0], [float("nan"), 1.0]], dtype=torch.float64)
    assert cosines(rows @ rows.T).isnan().all()
