"""What holds for every rule, on one catalogue of gradients."""

from __future__ import annotations

import io
import random

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon_cli.errors import ReconError
from recon_cli.rules.registry import RULES, make_rule
from recon_cli.rules.rule import Observation, PenaltyRule, WeightRule
from tests.rules.gradients import (
    BALANCING,
    GRADIENTS,
    MANIPULATIONS,
    RANDOM,
    longest,
    losses_of,
    names_of,
    rule_for,
    seen,
    update_of,
)

DETERMINISTIC = [name for name in RULES if name not in RANDOM]
WEIGHING = [name for name, rule in RULES.items() if issubclass(rule, WeightRule)]
BOUNDED = [name for name in RULES if name not in ("imtl-g", "imtl", "cosreg")]
"""All but those whose weights may be negative, so that the update may be of any length."""
GROWING = [name for name in RULES if name != "cosreg"]
"""All but the one whose penalty is as large for gradients of any size."""
FOLLOW_LOSSES = [name for name in BALANCING if RULES[name].EXCEPTION and name not in RANDOM]
"""Rules whose weights follow the size of all losses together."""


@pytest.mark.parametrize("scale", ["mean", "published"])
@pytest.mark.parametrize("case", GRADIENTS)
@pytest.mark.parametrize("name", RULES)
def test_the_update_is_finite_and_weights_are_not_all_zero(name, case, scale):
    gradients = GRADIENTS[case]
    rule = rule_for(name, gradients, scale=scale)
    for _ in range(3):
        if isinstance(rule, WeightRule):
            weights = rule.weights(seen(gradients))
            assert weights.shared.dtype == weights.heads.dtype == torch.float64
            assert bool(weights.shared.isfinite().all() and weights.heads.isfinite().all())
            assert bool((weights.heads > 0).all())
            assert bool(weights.shared.any()) == (weights.note is None)
            assert weights.note is None or name in ("gradops", "aligned-mtl")
        update = update_of(rule, gradients)
        assert update.shape == gradients.shape[1:]
        assert bool(update.isfinite().all())


@pytest.mark.parametrize("name", BOUNDED)
def test_the_update_is_no_longer_than_the_longest_gradient(name):
    for case, gradients in GRADIENTS.items():
        update = update_of(rule_for(name, gradients), gradients)
        assert update.norm() <= (1 + 1e-6) * longest(gradients), case


@pytest.mark.parametrize("tasks", [1, 2, 3, 9, 40])
@pytest.mark.parametrize("name", RULES)
def test_tasks_that_agree_give_what_each_of_them_has(name, tasks):
    gradient = GRADIENTS["one task"]
    gradients = gradient.repeat(tasks, 1)
    rule = rule_for(name, gradients)
    for losses in (losses_of(gradients), 0.5 * losses_of(gradients).flip(0)):
        torch.testing.assert_close(update_of(rule, gradients, losses=losses), gradient[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@pytest.mark.parametrize("name", GROWING)
def test_the_update_grows_with_the_gradients(name, factor):
    for case, gradients in GRADIENTS.items():
        rules = rule_for(name, gradients), rule_for(name, gradients)
        for _ in range(3):
            plain, scaled = update_of(rules[0], gradients), update_of(rules[1], factor * gradients)
            # What nearly parallel gradients differ in, 1e-5 of their length, may count as rounding or not.
            assert torch.allclose(scaled / factor, plain, rtol=1e-5, atol=1e-5 * longest(gradients)), case


@pytest.mark.parametrize("name", BALANCING)
def test_the_update_does_not_depend_on_the_size_of_all_losses(name):
    gradients = GRADIENTS["nine tasks"]
    rules = rule_for(name, gradients), rule_for(name, gradients)
    alike = True
    for step in range(5):
        losses = losses_of(gradients).roll(step)
        found = [
            rule.weights(seen(gradients, losses=size * losses)).heads
            for rule, size in zip(rules, (1, 1e9), strict=True)
        ]
        for rule, size in zip(rules, (1, 1e9), strict=True):
            if "new losses" in rule.needs:
                rule.after_step(size * losses.roll(1))
            rule.after_epoch()
        alike &= torch.allclose(found[0], found[1], rtol=1e-6)
    assert alike == (name not in FOLLOW_LOSSES)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_order_of_the_tasks_does_not_matter(name):
    for case, gradients in GRADIENTS.items():
        order = torch.randperm(len(gradients), generator=torch.Generator().manual_seed(1))
        losses = losses_of(gradients)
        rules = rule_for(name, gradients), rule_for(name, gradients)
        for _ in range(3):
            plain = update_of(rules[0], gradients, losses=losses)
            other = update_of(rules[1], gradients[order], losses=losses[order])
            assert torch.allclose(other, plain, rtol=1e-6, atol=1e-7 * longest(gradients)), case


@pytest.mark.parametrize("name", RANDOM)
def test_random_rules_say_that_the_order_matters_or_draw_for_each_entry(name):
    assert name == "graddrop" or "order of the tasks" in RULES[name].EXCEPTION


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_a_task_without_a_gradient_takes_no_part(name):
    gradients = GRADIENTS["conflicting"]
    more = torch.cat([gradients, torch.zeros_like(gradients[:1])])
    for scale, share in (("mean", 3 / 4), ("published", 1)):
        alone, beside = rule_for(name, gradients, scale=scale), rule_for(name, more, scale=scale)
        torch.testing.assert_close(update_of(beside, more), share * update_of(alone, gradients))


@pytest.mark.parametrize("name", WEIGHING)
def test_a_task_that_is_absent_from_a_step_is_as_if_it_were_not(name):
    gradients = GRADIENTS["conflicting"]
    without = gradients.clone()
    without[1] = 0
    losses = losses_of(gradients)
    losses[1] = torch.nan
    beside, alone = rule_for(name, gradients), make_rule(name, ["task0", "task2"])
    for _ in range(3):
        found = beside.weights(seen(without, losses=losses, present=(0, 2)))
        expected = alone.weights(seen(gradients[[0, 2]], losses=losses[[0, 2]]))
        torch.testing.assert_close(found.shared[[0, 2]], expected.shared)
        torch.testing.assert_close(found.heads[[0, 2]], expected.heads)
        assert float(found.shared[1]) == float(found.heads[1]) == 0
        for rule, after in ((beside, losses), (alone, losses[[0, 2]])):
            if "new losses" in rule.needs:
                rule.after_step(0.5 * after)
            rule.after_epoch()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if set(rule.NEEDS) & {"gram", "gradients"}])
def test_a_gradient_that_is_no_number_is_an_error_that_names_the_task(name, value):
    gradients = GRADIENTS["three tasks"].clone()
    gradients[1, 3] = value
    with pytest.raises(ReconError, match="gradient of `task1` is NaN or infinite"):
        update_of(rule_for(name, gradients), gradients)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", BALANCING)
def test_a_loss_that_is_no_number_is_an_error_that_names_the_task(name, value):
    gradients = GRADIENTS["three tasks"]
    losses = losses_of(gradients)
    losses[2] = value
    with pytest.raises(ReconError, match="loss of `task2` is NaN or infinite"):
        update_of(rule_for(name, gradients), gradients, losses=losses)


@pytest.mark.parametrize("name", [name for name in BALANCING if not RULES[name].NEGATIVE] + ["famo"])
def test_losses_below_zero_are_refused_where_they_make_no_sense(name):
    gradients = GRADIENTS["three tasks"]
    losses = losses_of(gradients)
    losses[0] = -1.0
    with pytest.raises(ReconError, match="loss of `task0` is not one that the rule"):
        update_of(rule_for(name, gradients), gradients, losses=losses)


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_heads_keep_their_own_gradients_under_a_manipulation(name):
    gradients = GRADIENTS["conflicting"]
    for scale, own in (("mean", 1 / 3), ("published", 1.0)):
        rule = rule_for(name, gradients, scale=scale)
        heads = rule.joint_weights((0, 1, 2)) if name == "graddrop" else rule.weights(seen(gradients)).heads
        assert heads.tolist() == [own] * 3


@pytest.mark.parametrize("name", [name for name in BALANCING if name != "imtl"])
def test_heads_are_weighed_as_the_shared_part_is_under_balancing(name):
    gradients = GRADIENTS["conflicting"]
    found = rule_for(name, gradients).weights(seen(gradients))
    assert torch.equal(found.heads, found.shared)
    assert float(found.heads.sum()) == pytest.approx(1)


def steps(rule, count, seed):
    """The updates of some steps on gradients and losses that change."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        gradients = torch.randn(len(rule.tasks), 12, dtype=torch.float64, generator=generator)
        losses = torch.rand(len(rule.tasks), dtype=torch.float64, generator=generator) + 0.1
        found.append(update_of(rule, gradients, losses=losses))
        if "new losses" in rule.needs:
            rule.after_step(losses * torch.rand(len(rule.tasks), dtype=torch.float64, generator=generator) + 0.01)
        if "epochs" in rule.needs:
            rule.after_epoch()
    return torch.stack(found)


@pytest.mark.parametrize("name", RULES)
def test_a_saved_state_goes_on_as_the_rule_itself_does(name):
    tasks = ["a", "b", "c", "d"]
    rule = make_rule(name, tasks, seed=3)
    steps(rule, 5, seed=0)
    file = io.BytesIO()
    torch.save(rule.state_dict(), file)
    file.seek(0)
    other = make_rule(name, tasks, seed=8)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(steps(other, 5, seed=1), steps(rule, 5, seed=1))


@pytest.mark.parametrize("name", RULES)
def test_a_saved_state_does_not_change_with_the_rule(name):
    rule = make_rule(name, ["a", "b", "c", "d"])
    state = rule.state_dict()
    first = steps(rule, 3, seed=0)
    rule.load_state_dict(state)
    steps(rule, 2, seed=5)
    rule.load_state_dict(state)
    assert torch.equal(steps(rule, 3, seed=0), first)


@pytest.mark.parametrize("name", RULES)
def test_a_foreign_state_is_refused(name):
    rule = make_rule(name, ["a", "b"])
    other = make_rule("gradvac" if name == "pcgrad" else "pcgrad", ["a", "b"])
    with pytest.raises(ReconError, match="not one of the rule"):
        rule.load_state_dict(other.state_dict())
    with pytest.raises(ReconError, match="the state is of the tasks"):
        rule.load_state_dict(make_rule(name, ["a", "c"]).state_dict())


@pytest.mark.parametrize("name", RULES)
def test_the_users_generators_are_left_alone(name):
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    steps(make_rule(name, ["a", "b", "c"], seed=1), 3, seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert numpy.random.get_state()[1].tolist() == before[2]


@pytest.mark.parametrize("name", RULES)
def test_the_seed_alone_decides_what_a_random_rule_draws(name):
    tasks = ["a", "b", "c", "d", "e"]
    first, again, other = (steps(make_rule(name, tasks, seed=seed), 4, seed=0) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name not in RANDOM)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if "gram" in rule.NEEDS])
def test_a_missing_or_foreign_gram_matrix_is_an_error(name):
    rule = make_rule(name, ["a", "b"])
    ask = rule.slopes if isinstance(rule, PenaltyRule) else rule.weights
    with pytest.raises(ReconError, match="needs the Gram matrix"):
        ask(Observation(torch.ones(2, dtype=torch.float64)))
    with pytest.raises(ReconError, match=r"has the shape \(3, 3\); for 2 tasks it is \(2, 2\)"):
        ask(Observation(torch.ones(2, dtype=torch.float64), torch.eye(3)))


@pytest.mark.parametrize("name", WEIGHING)
def test_losses_of_a_graph_in_single_precision_are_taken_as_they_are(name):
    gradients = GRADIENTS["conflicting"]
    losses = losses_of(gradients).float().requires_grad_()
    rule = rule_for(name, gradients)
    found = rule.weights(Observation(2 * losses, (gradients @ gradients.T).requires_grad_()))
    if "new losses" in rule.needs:
        rule.after_step(losses)
    assert found.shared.dtype == torch.float64
    assert not found.shared.requires_grad
    assert not any(value.requires_grad for value in rule.state_dict().values() if isinstance(value, torch.Tensor))


matrices = st.integers(1, 6).flatmap(
    lambda tasks: st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=tasks, max_size=tasks)
)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=30)
@given(rows=matrices, exponents=st.lists(st.integers(-12, 12), min_size=6, max_size=6))
def test_small_whole_numbers_of_any_size_give_finite_updates(name, rows, exponents):
    """Rows that depend on each other, in every way, and of sizes far apart."""
    gradients = torch.tensor(rows, dtype=torch.float64)
    gradients = gradients * 10.0 ** torch.tensor(exponents[: len(rows)], dtype=torch.float64).unsqueeze(1)
    rule = make_rule(name, names_of(gradients))
    update = update_of(rule, gradients)
    assert bool(update.isfinite().all())
    if name in BOUNDED:
        assert update.norm() <= (1 + 1e-6) * longest(gradients)
