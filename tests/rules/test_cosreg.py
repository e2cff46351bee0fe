"""CosReg against autograd on the penalty itself."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from recon_cli.errors import ReconError
from recon_cli.rules.registry import make_rule
from recon_cli.rules.rule import Observation
from tests.rules.gradients import GRADIENTS, names_of, seen

REGULAR = ["three tasks", "conflicting", "opposite", "orthogonal", "nine tasks", "forty tasks of rank five"]


def gradient_of_penalty(gradients: torch.Tensor, coefficient: float, pairs: str) -> torch.Tensor:
    """dP / dg_i for all i, by autograd."""
    gradients = gradients.clone().requires_grad_()
    cosines = [
        F.cosine_similarity(gradients[i], gradients[j], dim=0) for i, j in combinations(range(len(gradients)), 2)
    ]
    squares = torch.stack(cosines).square()
    (coefficient * (squares.mean() if pairs == "mean" else squares.sum())).backward()
    return gradients.grad


@pytest.mark.parametrize("pairs", ["mean", "sum"])
@pytest.mark.parametrize("case", REGULAR)
def test_the_slopes_give_the_gradient_of_the_penalty(case, pairs):
    gradients = GRADIENTS[case]
    rule = make_rule("cosreg", names_of(gradients), coefficient=0.3, pairs=pairs)
    found = rule.slopes(seen(gradients)) @ gradients
    expected = gradient_of_penalty(gradients, 0.3, pairs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max() + 1))


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_the_penalty_does_not_depend_on_the_size_of_the_gradients(size):
    gradients = GRADIENTS["conflicting"]
    rule = make_rule("cosreg", names_of(gradients))
    plain, scaled = rule.slopes(seen(gradients)), rule.slopes(seen(size * gradients))
    torch.testing.assert_close(scaled * size * size, plain)


def test_tasks_without_a_gradient_and_absent_ones_have_no_cosine():
    gradients = GRADIENTS["conflicting"]
    more = torch.cat([gradients, torch.zeros_like(gradients[:1]), gradients[:1]])
    rule = make_rule("cosreg", names_of(more))
    found = rule.slopes(seen(more, present=(0, 1, 2, 3)))
    expected = make_rule("cosreg", names_of(gradients)).slopes(seen(gradients))
    torch.testing.assert_close(found[:3, :3], expected)
    assert not found[3:].any()
    assert not found[:, 3:].any()


def test_one_task_alone_has_no_penalty():
    rule = make_rule("cosreg", ["a"])
    assert not rule.slopes(Observation(torch.ones(1), torch.ones(1, 1))).any()


@pytest.mark.parametrize(("settings", "where"), [({"coefficient": 0.0}, "coefficient"), ({"pairs": "max"}, "pairs")])
def test_what_cannot_be_set_is_an_error(settings, where):
    with pytest.raises(ReconError, match=where):
        make_rule("cosreg", ["a", "b"], **settings)
