"""Rules that project gradients, against what their papers write, carried out on the gradients themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchjd.aggregation import GradVacWeighting, PCGradWeighting

from recon_cli.rules.registry import make_rule
from tests.rules.gradients import GRADIENTS, longest, names_of, rule_for, seen, update_of

INDEPENDENT = [
    "one task", "two tasks", "three tasks", "nine tasks", "forty tasks", "conflicting", "orthogonal", "tiny", "huge",
]  # fmt: skip
WITH_GRADIENTS = [case for case, gradients in GRADIENTS.items() if bool(gradients.any())]


def deconflicted(gradients: torch.Tensor, order: list[int]) -> torch.Tensor:
    """g' of GradOPS by the Gram-Schmidt procedure of Eqs. 1 and 2, literally."""
    found = gradients.clone()
    for i in range(len(gradients)):
        if not any(float(gradients[i] @ gradients[k]) < 0 for k in range(len(gradients))):
            continue
        basis: list[torch.Tensor] = []
        for j in order:
            if j != i:
                u = gradients[j]
                for earlier in basis:
                    u = u - (earlier @ u) / (earlier @ earlier) * earlier
                basis.append(u)
        for u in basis:
            found[i] = found[i] - (u @ found[i]) / (u @ u) * u
    return found


def gradops(gradients: torch.Tensor, alpha: float) -> torch.Tensor:
    """The update of GradOPS by Eqs. 3 to 5."""
    projected = deconflicted(gradients, list(range(len(gradients))))
    along = gradients @ projected.sum(0) / gradients.norm(dim=1)
    relative = along / along.mean()
    weights = relative**alpha / (relative**alpha).mean()
    return weights @ projected


@pytest.mark.parametrize("alpha", [0.0, -1.0, -3.0, 2.0, 0.5])
@pytest.mark.parametrize("case", INDEPENDENT)
def test_gradops_is_gram_schmidt(case, alpha):
    gradients = GRADIENTS[case]
    update = update_of(rule_for("gradops", gradients, alpha=alpha, scale="published"), gradients)
    torch.testing.assert_close(update, gradops(gradients, alpha), rtol=1e-7, atol=1e-9 * longest(gradients))


@pytest.mark.parametrize("alpha", [0.0, -2.0, 5.0])
@pytest.mark.parametrize("case", WITH_GRADIENTS)
def test_gradops_conflicts_with_no_task(case, alpha):
    gradients = GRADIENTS[case]
    update = update_of(rule_for("gradops", gradients, alpha=alpha), gradients)
    assert bool((gradients @ update >= -1e-6 * gradients.norm(dim=1) * update.norm()).all())


@pytest.mark.parametrize("case", INDEPENDENT)
def test_no_projected_gradient_of_gradops_conflicts_with_any_task(case):
    """With a large alpha the update is that of the dominating task alone, and with any the combination is positive."""
    gradients = GRADIENTS[case]
    projected = deconflicted(gradients, list(range(len(gradients))))
    assert bool((projected @ gradients.T >= -1e-9 * longest(gradients) ** 2).all())
    along = gradients @ projected.sum(0) / gradients.norm(dim=1)
    for alpha, place in ((2000.0, int(along.argmax())), (-2000.0, int(along.argmin()))):
        update = update_of(rule_for("gradops", gradients, alpha=alpha, scale="published"), gradients)
        torch.testing.assert_close(update, len(gradients) * projected[place], rtol=1e-4, atol=1e-4 * longest(gradients))


@given(st.permutations(range(6)), st.sampled_from([-2.0, 0.0, 1.0]))
def test_gradops_does_not_depend_on_the_order(order, alpha):
    gradients = torch.cat([GRADIENTS["conflicting"], GRADIENTS["three tasks"]])
    update = update_of(rule_for("gradops", gradients, alpha=alpha), gradients)
    torch.testing.assert_close(update_of(rule_for("gradops", gradients, alpha=alpha), gradients[order]), update)
    torch.testing.assert_close(
        deconflicted(gradients, list(order)).sum(0) / 6,
        update_of(rule_for("gradops", gradients), gradients),
    )


@pytest.mark.parametrize("case", [case for case in WITH_GRADIENTS if len(GRADIENTS[case]) == 2])
def test_gradops_is_pcgrad_for_two_tasks(case):
    gradients = GRADIENTS[case]
    torch.testing.assert_close(
        update_of(rule_for("gradops", gradients), gradients),
        update_of(rule_for("pcgrad", gradients), gradients),
        rtol=1e-9, atol=1e-6,
    )  # fmt: skip


def test_gradops_leaves_a_task_out_of_its_means_of_which_nothing_is_left():
    """g_3 = -g_1 - g_2 conflicts, and depends on the others, as g_1 and g_2 do; g_4 stands alone."""
    gradients = torch.tensor(
        [[1.0, 0, 0, 0], [0, 1, 0, 0], [-1, -1, 0, 0], [0, 0, 1, 0.0], [0, 0, 2, 1]], dtype=torch.float64
    )
    for alpha in (-1.0, 0.0, 2.0):
        update = update_of(rule_for("gradops", gradients, alpha=alpha, scale="published"), gradients)
        alone = gradients[3:]
        torch.testing.assert_close(
            update, update_of(make_rule("gradops", ["a", "b"], alpha=alpha, scale="published"), alone)
        )


def test_gradops_says_when_nothing_is_left():
    gradients = GRADIENTS["stationary"]
    weights = rule_for("gradops", gradients).weights(seen(gradients))
    assert not bool(weights.shared.any())
    assert "leaves nothing of the gradients of `task0`, `task1`, `task2`" in weights.note


def test_pcgrad_agrees_with_torchjd_for_two_tasks():
    for case in ("two tasks", "opposite, one longer", "nearly opposite"):
        gradients = GRADIENTS[case]
        found = rule_for("pcgrad", gradients, scale="published").weights(seen(gradients)).shared
        torch.testing.assert_close(found, PCGradWeighting()(gradients @ gradients.T))


@given(st.lists(st.floats(-3, 3), min_size=8, max_size=8))
def test_pcgrad_conflicts_with_neither_of_two_tasks(numbers):
    gradients = torch.tensor(numbers, dtype=torch.float64).view(2, 4)
    update = update_of(make_rule("pcgrad", ["a", "b"]), gradients)
    assert bool((gradients @ update >= -1e-9 * longest(gradients) ** 2).all())


def drawn_orders(tasks: int, seed: int):
    """The orders in which a rule with this seed goes through the other tasks."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randperm(tasks, generator=generator).tolist()


@pytest.mark.parametrize("case", ["three tasks", "nine tasks", "conflicting", "stationary", "nine tasks in a plane"])
def test_pcgrad_is_its_algorithm_carried_out_on_the_gradients(case):
    gradients, projected = GRADIENTS[case], GRADIENTS[case].clone()
    orders = drawn_orders(len(gradients), 4)
    for i in range(len(gradients)):
        for j in next(orders):
            inner = projected[i] @ gradients[j]
            if j != i and inner < -1e-12 * longest(gradients) ** 2:
                projected[i] -= inner / (gradients[j] @ gradients[j]) * gradients[j]
    found = update_of(rule_for("pcgrad", gradients, seed=4, scale="published"), gradients)
    torch.testing.assert_close(found, projected.sum(0))


@pytest.mark.parametrize("case", ["three tasks", "nine tasks", "conflicting"])
def test_gradvac_is_its_algorithm_carried_out_on_the_gradients(case):
    gradients = GRADIENTS[case]
    tasks = len(gradients)
    rule = rule_for("gradvac", gradients, seed=4, beta=0.3, scale="published")
    orders, goals = drawn_orders(tasks, 4), torch.zeros(tasks, tasks, dtype=torch.float64)
    for step in range(3):
        gradients = GRADIENTS[case].roll(step, 0)
        turned = gradients.clone()
        for i in range(tasks):
            for j in next(orders):
                if j == i:
                    continue
                cosine = torch.cosine_similarity(turned[i], gradients[j], dim=0)
                goal = goals[i, j].clone()
                if cosine < goal:
                    turn = goal * (1 - cosine**2).sqrt() - cosine * (1 - goal**2).sqrt()
                    scale = turned[i].norm() * turn / (gradients[j].norm() * (1 - goal**2).sqrt())
                    turned[i] += scale * gradients[j]
                goals[i, j] = 0.7 * goal + 0.3 * cosine
        torch.testing.assert_close(update_of(rule, gradients), turned.sum(0))


def test_gradvac_agrees_with_torchjd_for_two_tasks():
    rule = make_rule("gradvac", ["a", "b"], beta=0.4, scale="published")
    theirs = GradVacWeighting(beta=0.4, eps=0.0)
    for step in range(6):
        gradients = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        found = rule.weights(seen(gradients)).shared
        torch.testing.assert_close(found, theirs(gradients @ gradients.T))


def test_gradvac_begins_as_pcgrad():
    gradients = GRADIENTS["nine tasks"]
    torch.testing.assert_close(
        update_of(make_rule("gradvac", names_of(gradients), seed=2), gradients),
        update_of(make_rule("pcgrad", names_of(gradients), seed=2), gradients),
    )
