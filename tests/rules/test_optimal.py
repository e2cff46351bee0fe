"""Rules that are defined by what they optimise, or by equations, against independent solvers."""

from __future__ import annotations

import numpy
import pytest
import scipy.optimize
import torch
from torchjd.aggregation import AlignedMTLWeighting, IMTLGWeighting

from recon_cli.errors import ReconError
from recon_cli.rules.grams import RANK
from tests.rules.gradients import GRADIENTS, longest, losses_of, rule_for, seen, update_of

WITH_GRADIENTS = [case for case, gradients in GRADIENTS.items() if bool(gradients.any())]


def shortest_mean(gradients: torch.Tensor) -> torch.Tensor:
    """The shortest mean of rows that are not zero, by non-negative least squares."""
    rows = gradients[gradients.norm(dim=1) > 0]
    norms = rows.norm(dim=1)
    # x = w |g| / min |g| has the minimal | sum x_i g_i / |g_i| |, up to its size, where sum(w) = 1 costs nothing else.
    costs = norms.min() / norms
    system = torch.cat([(rows / norms.unsqueeze(1)).T, costs.unsqueeze(0)])
    goal = torch.zeros(len(system), dtype=torch.float64)
    goal[-1] = 1
    parts, _ = scipy.optimize.nnls(system.numpy(), goal.numpy(), maxiter=10_000)
    weights = torch.from_numpy(parts) * costs
    return weights @ rows / weights.sum()


@pytest.mark.parametrize("case", WITH_GRADIENTS)
def test_mgda_finds_the_shortest_mean(case):
    gradients = GRADIENTS[case]
    weights = rule_for("mgda", gradients, scale="published").weights(seen(gradients)).shared
    active = gradients.norm(dim=1) > 0
    assert bool((weights[active] >= 0).all())
    assert float(weights[active].sum()) == pytest.approx(1)
    shortest = gradients[active].norm(dim=1).min()
    torch.testing.assert_close(
        (weights @ gradients).norm() / shortest, shortest_mean(gradients).norm() / shortest, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("normalise", ["l2", "loss", "loss+"])
def test_mgda_normalises_the_gradients_only_to_find_the_weights(normalise):
    gradients, losses = GRADIENTS["conflicting"], losses_of(GRADIENTS["conflicting"])
    norms = gradients.norm(dim=1)
    divided = gradients / {"l2": norms, "loss": losses, "loss+": losses * norms}[normalise].unsqueeze(1)
    rule = rule_for("mgda", gradients, normalise=normalise)
    weights = rule.weights(seen(gradients)).shared
    assert ("losses" in rule.needs) == normalise.startswith("loss")
    torch.testing.assert_close(weights @ divided, shortest_mean(divided), rtol=1e-7, atol=1e-9)


def test_mgda_needs_losses_above_zero_to_divide_by_them():
    gradients = GRADIENTS["conflicting"]
    rule = rule_for("mgda", gradients, normalise="loss")
    for bad, message in ((0.0, "loss of `task1` is not one"), (torch.nan, "loss of `task1` is NaN")):
        losses = losses_of(gradients)
        losses[1] = bad
        with pytest.raises(ReconError, match=message):
            rule.weights(seen(gradients, losses=losses))


CAGRAD_CASES = [case for case in WITH_GRADIENTS if "far apart" not in case]


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9, 2.0])
@pytest.mark.parametrize("case", [case for case in CAGRAD_CASES if len(GRADIENTS[case]) <= 9])
def test_cagrad_reaches_the_value_of_its_dual(case, c):
    """What the worst task improves by is at most what any point of the dual says, and here it is as much."""
    gradients = GRADIENTS[case]
    rows = gradients[gradients.norm(dim=1) > 0] / longest(gradients)
    mean = rows.mean(0)
    update = update_of(rule_for("cagrad", rows, c=c, scale="published"), rows) * (1 + c**2)
    assert (update - mean).norm() <= c * mean.norm() + 1e-7
    improvement = float((rows @ update).min())

    def dual(parts: numpy.ndarray) -> float:
        weights = parts**2 / (parts**2).sum()
        combined = weights @ rows.numpy()
        return float(combined @ mean.numpy() + c * float(mean.norm()) * numpy.linalg.norm(combined))

    # Squares make the weights positive, and several starts make up for what that costs.
    starts = [numpy.ones(len(rows)), *(numpy.eye(len(rows)) + 0.1)[:5]]
    lowest = min(scipy.optimize.minimize(dual, start, method="BFGS").fun for start in starts)
    assert improvement <= lowest + 1e-7
    # Where the gradients cancel, the mean is 0, and both are but for rounding.
    assert improvement >= lowest - 1e-5 * float(mean.norm()) - 1e-12


@pytest.mark.parametrize("case", CAGRAD_CASES)
def test_cagrad_meets_the_conditions_of_its_optimum(case):
    """d - g_0 is a non-negative combination of the gradients that improve least, as long as the ball allows.

    Inside the ball, no direction improves all of these.
    """
    gradients = GRADIENTS[case]
    rows = gradients[gradients.norm(dim=1) > 0] / longest(gradients)
    mean = rows.mean(0)
    if mean.norm() < 1e-6:
        pytest.skip("there is no ball")
    update = update_of(rule_for("cagrad", rows, scale="published"), rows) * (1 + 0.4**2)
    improvements = rows @ update
    worst = rows[improvements <= improvements.min() + 1e-6]
    _, rest = scipy.optimize.nnls(worst.T.numpy(), (update - mean).numpy(), maxiter=10_000)
    assert rest <= 1e-5
    radius = 0.4 * float(mean.norm())
    if float((update - mean).norm()) < radius * (1 - 1e-6):
        assert shortest_mean(worst).norm() < 1e-6
    assert float((update - mean).norm()) <= radius * (1 + 1e-6)


@pytest.mark.parametrize("case", ["opposite, one longer", "nearly opposite", "nine tasks in a plane"])
def test_cagrad_makes_no_update_in_a_stationary_point_if_the_ball_allows(case):
    gradients = GRADIENTS[case]
    assert update_of(rule_for("cagrad", gradients, c=2.0), gradients).norm() <= 1e-5 * longest(gradients)


def test_cagrad_without_a_ball_is_joint_training():
    gradients = GRADIENTS["conflicting"]
    torch.testing.assert_close(update_of(rule_for("cagrad", gradients, c=0.0), gradients), gradients.mean(0))


@pytest.mark.parametrize(
    "case",
    ["one task", "two tasks", "three tasks", "nine tasks", "forty tasks", "conflicting", "parallel", "orthogonal",
     "one task without a gradient", "nearly parallel", "tiny", "huge", "of sizes far apart"],
)  # fmt: skip
def test_nash_mtl_solves_its_equations(case):
    gradients = GRADIENTS[case]
    weights = rule_for("nash-mtl", gradients, scale="published").weights(seen(gradients)).shared
    active = gradients.norm(dim=1) > 0
    gradients, weights = gradients[active], weights[active]
    assert bool((weights > 0).all())
    torch.testing.assert_close(
        weights * (gradients @ (weights @ gradients)), torch.ones_like(weights), rtol=0, atol=1e-6
    )
    assert float((weights @ gradients).norm()) == pytest.approx(len(weights) ** 0.5)


@pytest.mark.parametrize("case", ["opposite", "opposite, one longer", "stationary", "nine tasks in a plane"])
def test_nash_mtl_makes_nearly_no_update_where_the_point_is_stationary(case):
    gradients = GRADIENTS[case]
    assert update_of(rule_for("nash-mtl", gradients), gradients).norm() <= 1e-5 * longest(gradients)


@pytest.mark.parametrize(
    "case", ["one task", "two tasks", "three tasks", "nine tasks", "forty tasks", "conflicting", "parallel",
             "orthogonal", "one task without a gradient", "tiny", "huge"],
)  # fmt: skip
def test_imtl_g_projects_equally_on_all_gradients(case):
    gradients = GRADIENTS[case]
    weights = rule_for("imtl-g", gradients, scale="published").weights(seen(gradients)).shared
    active = gradients[gradients.norm(dim=1) > 0]
    projections = active @ (weights @ gradients) / active.norm(dim=1)
    torch.testing.assert_close(projections, projections.mean().expand(len(active)), rtol=1e-7, atol=0)
    assert float(weights[gradients.norm(dim=1) > 0].sum()) == pytest.approx(1)


@pytest.mark.parametrize("case", ["opposite", "more tasks than parameters", "nine tasks in a plane", "stationary"])
def test_imtl_g_is_mgda_where_no_update_is_impartial(case):
    gradients = GRADIENTS[case]
    update = update_of(rule_for("imtl-g", gradients), gradients)
    torch.testing.assert_close(update, shortest_mean(gradients), rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", ["two tasks", "three tasks", "nine tasks", "forty tasks", "conflicting", "orthogonal"])
def test_imtl_g_agrees_with_torchjd(case):
    gram = GRADIENTS[case] @ GRADIENTS[case].T
    found = rule_for("imtl-g", GRADIENTS[case]).weights(seen(GRADIENTS[case])).shared
    torch.testing.assert_close(found, IMTLGWeighting()(gram))


@pytest.mark.parametrize("mode", ["min", "median", "rmse"])
@pytest.mark.parametrize("case", ["two tasks", "three tasks", "nine tasks", "forty tasks", "conflicting", "orthogonal"])
def test_aligned_mtl_agrees_with_torchjd(case, mode):
    gram = GRADIENTS[case] @ GRADIENTS[case].T
    found = rule_for("aligned-mtl", GRADIENTS[case], scale_mode=mode).weights(seen(GRADIENTS[case])).shared
    torch.testing.assert_close(found, AlignedMTLWeighting(scale_mode=mode)(gram))


def test_aligned_mtl_takes_no_rounding_for_a_direction():
    """Where it does, as TorchJD's, the least length is that of the rounding, and the update as short."""
    gradients = GRADIENTS["parallel up to rounding in float32"]
    gram = gradients @ gradients.T
    lengths = torch.linalg.eigvalsh(gram)
    assert float(lengths[0]) < RANK * float(lengths[-1])
    update = update_of(rule_for("aligned-mtl", gradients), gradients)
    assert update.norm() > 0.5 * gradients.mean(0).norm()
    assert (AlignedMTLWeighting()(gram) @ gradients).norm() < 1e-6 * gradients.mean(0).norm()
