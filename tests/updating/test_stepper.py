"""What a step by each rule leaves in `.grad`, against one gradient of autograd after the other."""

from __future__ import annotations

import pytest
import torch

from recon_cli.artifacts.method import Method
from recon_cli.errors import ReconError
from recon_cli.layers.discovery import discover_layers
from recon_cli.rules.registry import RULES
from recon_cli.updating.stepper import Stepper
from recon_cli.updating.ways.way import Measured
from tests.updating.steps import (
    RULES_FOR_ANY,
    SHARED,
    TASKS,
    assert_same,
    expected_update,
    gradients_of,
    losses_of,
    make_network,
    rules_of,
)

LOOKING = [name for name in RULES_FOR_ANY if {"gram", "gradients"} & set(RULES[name].NEEDS)]
"""Rules that look at gradients, so that they can be applied layer by layer."""
WITH_FEATURES = [name for name in LOOKING if name not in ("graddrop", "cosreg")]
TOLERANCES = {"nash-mtl": 1e-5, "cagrad": 1e-6, "mgda": 1e-6}
"""What rules make of rounding that solve for their weights."""
STEPS = 4


def indexed(losses):
    return {TASKS.index(task): loss for task, loss in losses.items()}


def check(method: Method, groups, looked_at=SHARED, absent=(), every: int = 2, rules=None) -> None:
    """Train for some steps by a stepper, and compare each of them; every other one is measured."""
    ours, theirs = make_network(), make_network()
    layers = discover_layers(ours)
    stepper = Stepper(ours, TASKS, method, measured=Measured([layer for layer in layers if layer.name != "norm"]))
    rules = rules or rules_of(method.name, groups, scale=method.scale, **method.parameters)
    for step in range(STEPS):
        missing = absent if step else ()
        measured = step % every == 0
        stepper.watch(measured=measured)
        losses = losses_of(ours, step, missing)
        given = indexed(losses)
        for parameter in ours.parameters():
            parameter.grad = None
        found, _ = stepper.backward(given, measured=measured)
        assert (found is None) == (not measured)
        expected = expected_update(theirs, losses_of(theirs, step, missing), rules, groups, looked_at)
        assert_same(gradients_of(ours), expected, TOLERANCES.get(method.name, 1e-9))
        with torch.no_grad():
            for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                mine -= 0.1 * expected[name].detach()
                other.copy_(mine)
        with torch.no_grad():
            after = losses_of(theirs, step, missing)
        values = torch.tensor([float(after[t]) if t in after else torch.nan for t in TASKS], dtype=torch.float64)
        stepper.after_step(lambda step=step, missing=missing: indexed(losses_of(ours, step, missing)))
        for rule in rules:
            if "new losses" in rule.needs:
                rule.after_step(values)
            rule.after_epoch()
        stepper.after_epoch()


@pytest.mark.parametrize("scale", ["mean", "published"])
@pytest.mark.parametrize("name", RULES_FOR_ANY)
def test_the_trunk_as_a_whole(name, scale):
    check(Method(name=name, scale=scale), [SHARED])


@pytest.mark.parametrize("name", RULES_FOR_ANY)
def test_tasks_without_a_loss(name):
    check(Method(name=name), [SHARED], absent=("b",))


@pytest.mark.parametrize("name", LOOKING)
def test_each_layer_by_itself(name):
    # Layers that one task alone reaches have a rule that is never asked.
    names = [layer.name for layer in discover_layers(make_network())]
    rules = rules_of(name, names)
    shared = [names.index(layer) for layer in SHARED]
    check(Method(name=name, per="layer"), [[layer] for layer in SHARED], rules=[rules[at] for at in shared])


@pytest.mark.parametrize("name", LOOKING)
def test_groups_of_layers_and_the_rest(name):
    check(Method(name=name, groups=[["conv", "nor*"], ["some"]]), [["conv", "norm"], ["some"], ["body.0"]])


def test_the_layers_that_are_looked_at_decide_for_all():
    check(Method(name="gradnorm", layers=["body.*"]), [SHARED], looked_at=["body.0"])


@pytest.mark.parametrize("name", RULES_FOR_ANY)
def test_what_is_in_grad_is_added_to(name):
    found = []
    for before in (None, 1.0):
        network = make_network()
        stepper = Stepper(network, TASKS, Method(name=name))
        stepper.watch(measured=False)
        losses = losses_of(network, 0)
        for parameter in network.parameters():
            parameter.grad = None if before is None else torch.full_like(parameter, before)
        stepper.backward(indexed(losses), measured=False)
        found.append(gradients_of(network))
    assert_same(found[1], {name: value + 1 for name, value in found[0].items()})


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_the_gradients_of_a_feature_in_place_of_the_trunks(name):
    """The rule sees dL_i/dZ; measured steps and others make the same update."""
    updates = []
    for measured in (False, True):
        network, other = make_network(), make_network()
        measuring = Measured(discover_layers(network))
        stepper = Stepper(network, TASKS, Method(name=name, feature="body"), measured=measuring)
        stepper.watch(measured=measured)
        stepper.backward(indexed(losses_of(network, 0)), measured=measured)
        updates.append(gradients_of(network))
        kept = []
        other.body.register_forward_hook(lambda *call, kept=kept: kept.append(call[-1]))
        losses = losses_of(other, 0)
        rows = [torch.autograd.grad(loss, kept[0], retain_graph=True)[0].flatten() for loss in losses.values()]
        expected = expected_update(other, losses, [_Seeing(name, torch.stack(rows))])
        assert_same(updates[-1], expected, TOLERANCES.get(name, 1e-9))


class _Seeing:
    """A rule that is shown other gradients than those of the network."""

    def __init__(self, name: str, rows: torch.Tensor) -> None:
        (self._rule,) = rules_of(name, [()])
        self._gram = rows @ rows.T

    def joint_weights(self, present):
        return self._rule.joint_weights(present)

    def weights(self, seen):
        return self._rule.weights(type(seen)(seen.losses, self._gram, seen.present))


@pytest.mark.parametrize("name", RULES_FOR_ANY)
def test_a_saved_state_goes_on_as_the_stepper_itself_does(name):
    method = Method(name=name, per="layer" if name in LOOKING else "trunk")

    def train(network, stepper, steps):
        for step in steps:
            stepper.watch(measured=False)
            losses = losses_of(network, step, ("a",) if step == 1 else ())
            for parameter in network.parameters():
                parameter.grad = None
            stepper.backward(indexed(losses), measured=False)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 0.1 * (0 if parameter.grad is None else parameter.grad)
            stepper.after_step(lambda step=step: indexed(losses_of(network, step, ("a",) if step == 1 else ())))
            stepper.after_epoch()

    network = make_network()
    stepper = Stepper(network, TASKS, method, seed=4)
    train(network, stepper, range(3))
    other = make_network()
    other.load_state_dict(network.state_dict())
    goes_on = Stepper(other, TASKS, method, seed=9)
    goes_on.restore(stepper.state())
    train(network, stepper, range(3, 6))
    train(other, goes_on, range(3, 6))
    assert all(torch.equal(mine, own) for mine, own in zip(network.parameters(), other.parameters(), strict=True))


def test_a_state_of_another_method_or_network_is_refused():
    stepper = Stepper(make_network(), TASKS, Method(name="mgda"))
    with pytest.raises(ReconError, match="one of the method `pcgrad`"):
        stepper.restore(Stepper(make_network(), TASKS, Method(name="pcgrad")).state())
    with pytest.raises(ReconError, match="as it was set there"):
        stepper.restore(Stepper(make_network(), TASKS, Method(name="mgda", scale="published")).state())
    smaller = torch.nn.Linear(2, 2)
    with pytest.raises(ReconError, match="not as many layers"):
        stepper.restore(Stepper(smaller, TASKS, Method(name="mgda")).state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "pcgrda"}, "there is no update rule `pcgrda`"),
        ({"name": "gradops", "parameters": {"alpa": 1.0}}, "has no parameter `alpa`"),
        *(
            ({"name": "gradops", "parameters": {name: 1}}, f"has no parameter `{name}`")
            for name in ("name", "tasks", "scale", "seed", "self")
        ),
        ({"name": "graddrop", "layers": ["conv"]}, "each entry's update from the gradients of this entry alone"),
        ({"name": "rlw", "per": "layer"}, "looks at losses alone"),
        ({"name": "joint", "groups": [["conv"]]}, "looks at losses alone"),
        ({"name": "famo", "feature": "body"}, "has no form on the gradients of a feature"),
        ({"name": "graddrop", "feature": "body"}, "has no form on the gradients of a feature"),
        ({"name": "cosreg", "feature": "body"}, "has no form on the gradients of a feature"),
        ({"name": "mgda", "feature": "bodi"}, "the network has no module `bodi`"),
        ({"name": "mgda", "groups": [["conv"], ["con*"]]}, "the layer `conv` is in groups 1 and 2"),
        ({"name": "mgda", "layers": ["lyer*"]}, "no layer of the network is of the pattern `lyer\\*`"),
    ],
)
def test_what_cannot_be_applied_is_a_clear_error(settings, message):
    with pytest.raises(ReconError, match=message):
        Stepper(make_network(), TASKS, Method(**settings))


@pytest.mark.parametrize("name", LOOKING)
def test_a_gradient_that_is_no_number_is_an_error_that_names_the_task(name):
    network = make_network()
    stepper = Stepper(network, TASKS, Method(name=name))
    stepper.watch(measured=False)
    losses = losses_of(network, 0)
    losses["b"] = losses["b"] * torch.tensor(torch.inf)
    with pytest.raises(ReconError, match="`b`"):
        stepper.backward(indexed(losses), measured=False)


def test_a_rule_that_leaves_nothing_says_so():
    network = torch.nn.Linear(1, 1, bias=False)
    stepper = Stepper(network, ("a", "b"), Method(name="gradops"))
    for _ in range(2):
        stepper.watch(measured=False)
        y = network(torch.ones(1, 1)).sum()
        stepper.backward({0: y, 1: -2 * y}, measured=False)
    assert dict(stepper.notes) == {"GradOPS leaves nothing of the gradients of `a`, `b`": 2}
    assert not network.weight.grad.any()
