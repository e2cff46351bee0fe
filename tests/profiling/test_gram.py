"""Properties of Gram matrices and cosines over arbitrary gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.profiling.gradients import assign_joint_gradient
from recon_cli.profiling.gram import cosines, layer_grams

shapes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4)


@st.composite
def gradients(draw):
    """Two to five tasks' gradients of some parameters; now and then a task does not reach one."""
    seed, tasks = draw(st.integers(0, 2**31)), draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(seed)
    parameters = draw(shapes)
    return [
        [
            None if draw(st.integers(0, 9)) == 0 else torch.randn(shape, generator=generator).double()
            for shape in parameters
        ]
        for _ in range(tasks)
    ]


def flat(own, indices, like):
    parts = [np.zeros(like[i]) if own[i] is None else own[i].numpy().ravel() for i in indices]
    return np.concatenate(parts)


@given(gradients())
def test_gram_matrices_are_those_of_the_concatenated_gradients(own):
    sizes = [next((g[i].numel() for g in own if g[i] is not None), 1) for i in range(len(own[0]))]
    layers = [[i] for i in range(len(sizes))] + [list(range(len(sizes)))]
    if all(g is None for task in own for g in task):
        return
    for gram, indices in zip(layer_grams(own, layers), layers, strict=True):
        rows = np.stack([flat(task, indices, sizes) for task in own])
        assert gram.numpy() == pytest.approx(rows @ rows.T, abs=1e-12)


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


def test_float32_gradients_are_multiplied_in_float64():
    rows = torch.full((2, 3_000_000), 1e-3)
    gram = layer_grams([[rows[0]], [rows[1]]], [[0]])
    expected = 3_000_000 * float(rows[0, 0]) ** 2
    assert gram[0, 0, 1].item() == pytest.approx(expected, rel=1e-12)


def test_sparse_and_complex_gradients_count_by_their_values():
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([[2.0], [3.0]]), (3, 1), check_invariants=True
    )
    assert layer_grams([[sparse], [torch.ones(3, 1)]], [[0]])[0].tolist() == [[25.0, 5.0], [5.0, 3.0]]
    one, two = torch.tensor([1 + 2j]), torch.tensor([3 - 1j])
    assert layer_grams([[one], [two]], [[0]])[0, 0, 1].item() == 1.0


def test_the_joint_gradient_is_that_of_the_mean_loss():
    weight = torch.randn(3, requires_grad=True)
    unused = torch.randn(2, requires_grad=True)
    losses = [(weight * k).pow(2).sum() for k in (1.0, 2.0, 3.0)]
    own = [torch.autograd.grad(loss, [weight, unused], retain_graph=True, allow_unused=True) for loss in losses]
    assign_joint_gradient([weight, unused], own)
    expected = torch.autograd.grad(sum(losses) / 3, weight)[0]
    assert torch.allclose(weight.grad, expected)
    assert unused.grad is None
