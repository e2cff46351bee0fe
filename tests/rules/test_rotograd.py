"""The scaling of RotoGrad against its equations, on gradients that change from step to step."""

from __future__ import annotations

import pytest
import torch

from recon_cli.errors import ReconError
from recon_cli.rules.registry import make_rule
from tests.rules.gradients import GRADIENTS, names_of, rule_for, update_of

STEPS = ["three tasks", "conflicting", "orthogonal", "of sizes far apart"]


def scaled(gradients: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """U_k = C G_k / |G_k|, [T, n]."""
    norms = gradients.norm(dim=1)
    alphas = (norms / first) / (norms / first).sum()
    length = (alphas * norms).sum()
    return length * gradients / norms.unsqueeze(1)


@pytest.mark.parametrize("case", STEPS)
def test_all_gradients_get_the_length_that_the_slower_tasks_decide(case):
    first = GRADIENTS[case]
    rules = {scale: rule_for("rotograd", first, scale=scale) for scale in ("mean", "published")}
    for step in range(4):
        gradients = (0.5 ** torch.arange(len(first))).unsqueeze(1) ** step * first
        parts = scaled(gradients, first.norm(dim=1))
        for scale, expected in (("published", parts.sum(0)), ("mean", parts.mean(0))):
            torch.testing.assert_close(update_of(rules[scale], gradients), expected, rtol=1e-12, atol=0)


def test_a_task_is_measured_against_the_first_gradient_that_it_had():
    gradients = GRADIENTS["conflicting"]
    rule = make_rule("rotograd", names_of(gradients), scale="published")
    without = gradients.clone()
    without[1] = 0
    update_of(rule, 4 * without)
    found = update_of(rule, gradients)
    first = torch.tensor([4.0, 1, 4]) * gradients.norm(dim=1)
    torch.testing.assert_close(found, scaled(gradients, first).sum(0), rtol=1e-12, atol=0)


def test_a_learning_rate_below_zero_is_an_error():
    with pytest.raises(ReconError, match="`rotograd` cannot be set so: `learning_rate`"):
        make_rule("rotograd", ["a", "b"], learning_rate=-0.1)
