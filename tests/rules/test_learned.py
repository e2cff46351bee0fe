"""Rules that learn from losses, against autograd, torch's Adam and TorchJD."""

from __future__ import annotations

import pytest
import torch
from torchjd.scalarization import DWA, FAMO, IMTLL, UW

from recon_cli.errors import ReconError
from recon_cli.rules.registry import make_rule
from recon_cli.rules.rule import Observation
from tests.rules.gradients import GRADIENTS, losses_of, names_of, rule_for, seen

TASKS = ["a", "b", "c"]


def loss_sequence(steps: int, seed: int = 0) -> list[torch.Tensor]:
    """Losses of three tasks in some steps, of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([0.1, 1, 20], dtype=torch.float64)
    return [sizes * (0.2 + torch.rand(3, dtype=torch.float64, generator=generator)) for _ in range(steps)]


@pytest.mark.parametrize(
    ("name", "theirs", "learned"), [("uncertainty", UW, "log_var"), ("imtl-l", IMTLL, "log_scale")]
)
def test_learned_scales_follow_the_gradient_of_the_published_loss(name, theirs, learned):
    published = theirs(3).double()
    optimizer = torch.optim.Adam(published.parameters(), lr=0.05)
    rule = make_rule(name, TASKS, scale="published", learning_rate=0.05)
    for losses in loss_sequence(50):
        values = losses.clone().requires_grad_()
        optimizer.zero_grad()
        published(values).backward()
        found = rule.weights(Observation(losses))
        torch.testing.assert_close(found.shared, values.grad, rtol=1e-9, atol=0)
        optimizer.step()
    state = rule.state_dict()[rule.LEARNED[0]]
    torch.testing.assert_close(state[0], getattr(published, learned).detach(), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(state[0], torch.zeros(3, dtype=torch.float64))


def test_famo_agrees_with_torchjd():
    theirs = FAMO(3, lr=0.1, weight_decay=0.01).double()
    rule = make_rule("famo", TASKS, learning_rate=0.1, decay=0.01)
    for losses, after in zip(loss_sequence(30), loss_sequence(30, seed=1), strict=True):
        values = losses.clone().requires_grad_()
        theirs(values).backward()
        found = rule.weights(Observation(losses)).shared
        torch.testing.assert_close(found, values.grad, rtol=1e-5, atol=0)
        theirs.update(after)
        rule.after_step(after)


def test_famo_without_a_step_to_learn_from_says_so():
    rule = make_rule("famo", TASKS)
    with pytest.raises(ReconError, match="no losses to compare with"):
        rule.after_step(torch.ones(3))
    rule.weights(Observation(torch.ones(3)))
    with pytest.raises(ReconError, match="loss after the step of `b` is NaN"):
        rule.after_step(torch.tensor([1, torch.nan, 1]))


def test_dwa_agrees_with_torchjd():
    theirs, rule = DWA(temperature=1.5), make_rule("dwa", TASKS, temperature=1.5, scale="published")
    for epoch in range(5):
        for losses in loss_sequence(4, seed=epoch):
            values = losses.clone().requires_grad_()
            theirs(values).backward()
            torch.testing.assert_close(rule.weights(Observation(losses)).shared, values.grad)
        theirs.step()
        rule.after_epoch()


def test_dwa_keeps_what_it_knows_of_a_task_without_a_loss_in_an_epoch():
    rule = make_rule("dwa", TASKS, scale="published")
    for losses in ([4.0, 4, 4], [2.0, 1, 4]):
        rule.weights(Observation(torch.tensor(losses)))
        rule.after_epoch()
    before = rule.weights(Observation(torch.ones(3))).shared
    rule.after_epoch()
    rule.load_state_dict({**rule.state_dict()})
    expected = 3 * (torch.tensor([2 / 4, 1 / 4, 4 / 4], dtype=torch.float64) / 2).softmax(0)
    torch.testing.assert_close(before, expected)
    means = rule.means.clone()
    rule.weights(Observation(torch.tensor([5.0, torch.nan, 5]), present=(0, 2)))
    rule.after_epoch()
    assert rule.means[:, 1].tolist() == means[:, 1].tolist()
    assert rule.means[1, 0] == 5


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_gradnorm_follows_the_gradient_of_its_loss(alpha):
    """By autograd, through the norms of the weighted gradients; divided by their mean, as documented."""
    gradients = GRADIENTS["three tasks"] * torch.tensor([[1.0], [5], [0.3]])
    rule = make_rule("gradnorm", names_of(gradients), alpha=alpha, learning_rate=0.05, scale="published")
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.05)
    first = None
    for losses in loss_sequence(40):
        first = losses if first is None else first
        found = rule.weights(seen(gradients, losses=losses)).shared
        torch.testing.assert_close(found, weights.detach())
        lengths = (weights.unsqueeze(1) * gradients).norm(dim=1)
        ratios = losses / first
        goal = (lengths.mean() * (ratios / ratios.mean()) ** alpha).detach()
        optimizer.zero_grad()
        ((lengths - goal).abs().sum() / lengths.mean().detach()).backward()
        optimizer.step()
        with torch.no_grad():
            weights *= 3 / weights.sum()
    assert float((weights.detach() - 1).abs().max()) > 0.2


def test_gradnorm_brings_the_gradients_to_one_length():
    gradients = GRADIENTS["three tasks"] * torch.tensor([[1.0], [5], [0.3]])
    rule = rule_for("gradnorm", gradients, learning_rate=0.01)
    for _ in range(600):
        weights = rule.weights(seen(gradients)).shared
    lengths = weights * gradients.norm(dim=1)
    assert float(lengths.max() / lengths.min()) < 1.3
    assert bool((weights > 0).all())


def test_gradnorm_needs_a_first_loss_above_zero():
    gradients = GRADIENTS["three tasks"]
    losses = losses_of(gradients)
    losses[1] = 0
    with pytest.raises(ReconError, match="loss of `task1` is not one that the rule `gradnorm` can work with"):
        rule_for("gradnorm", gradients).weights(seen(gradients, losses=losses))


def test_imtl_is_imtl_l_for_heads_and_imtl_g_on_scaled_gradients():
    gradients = GRADIENTS["conflicting"]
    names = names_of(gradients)
    both = make_rule("imtl", names, scale="published", learning_rate=0.1)
    scales = make_rule("imtl-l", names, scale="published", learning_rate=0.1)
    for losses in loss_sequence(10):
        found = both.weights(seen(gradients, losses=losses))
        heads = scales.weights(Observation(losses)).heads
        scaled = heads.unsqueeze(1) * gradients
        expected = make_rule("imtl-g", names, scale="published").weights(seen(scaled)).shared @ scaled
        torch.testing.assert_close(found.heads, heads)
        torch.testing.assert_close(found.shared @ gradients, expected)


@pytest.mark.parametrize("name", ["rlw", "rgw"])
def test_random_weights_are_softmax_of_normal_numbers(name):
    gradients = GRADIENTS["three tasks"]
    rule = rule_for(name, gradients, seed=5)
    drawn = torch.stack([rule.weights(seen(gradients)).shared for _ in range(2000)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(2000, dtype=torch.float64))
    logits = drawn.log()
    difference = logits[:, 0] - logits[:, 1]
    # The difference of two standard normal numbers has the variance 2.
    assert abs(float(difference.mean())) < 0.12
    assert float(difference.var()) == pytest.approx(2, rel=0.12)


def test_uniform_random_weights_are_uniform_numbers_over_their_sum():
    rule = make_rule("rlw", TASKS, seed=3, distribution="uniform")
    drawn = torch.stack([rule.weights(Observation(torch.ones(3))).shared for _ in range(4000)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(4000, dtype=torch.float64))
    assert bool((drawn > 0).all())
    # Of u / (u + v + w), uniform on (0, 1): the mean is 1/3, and P(u > v + w) = 1/6 is that of a weight above 1/2.
    assert abs(float(drawn.mean()) - 1 / 3) < 1e-9
    assert abs(float((drawn > 0.5).double().mean()) - 1 / 6) < 0.01
    normal = make_rule("rlw", TASKS, seed=3)
    others = torch.stack([normal.weights(Observation(torch.ones(3))).shared for _ in range(4000)])
    assert abs(float((others > 0.5).double().mean()) - 1 / 6) > 0.03
