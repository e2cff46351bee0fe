"""RotoGrad against a network with explicit rotations, of which autograd computes everything."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import recon_cli
from recon_cli.artifacts.method import Method
from recon_cli.errors import ReconError
from recon_cli.layers.discovery import discover_layers
from recon_cli.rules.rotograd import RotoGradParameters
from recon_cli.updating.stepper import Stepper
from recon_cli.updating.ways.way import Measured
from tests.updating.steps import TASKS, assert_same, gradients_of

METHOD = {"name": "rotograd", "feature": "trunk.out"}


class Trunk(nn.Module):
    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first, self.out = first, nn.Tanh()

    def forward(self, x):
        return self.out(self.first(x))


class Network(nn.Module):
    """A trunk and heads, for features [B, 5], [B, L, 5] or [B, 5, H, W]."""

    def __init__(self, images: bool = False) -> None:
        super().__init__()
        layer = (lambda size, out: nn.Conv2d(size, out, 1)) if images else nn.Linear
        self.trunk = Trunk(layer(4, 5))
        self.heads = nn.ModuleDict({t: nn.Sequential(layer(5, 5), nn.Tanh(), layer(5, 2)) for t in TASKS})

    def head(self, task, z):
        y = self.heads[task](z)
        return y.mean((2, 3)) if y.dim() == 4 else y.mean(1) if y.dim() == 3 else y

    def forward(self, x):
        z = self.trunk(x)
        return {task: self.head(task, z) for task in TASKS}


SHAPES = {"rows": (4,), "sequences": (3, 4), "images": (4, 3, 2)}


def make_network(shape: str = "rows") -> Network:
    torch.manual_seed(3)
    return Network(images=shape == "images").double()


def batch(step: int, shape: str = "rows") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, *SHAPES[shape], generator=generator, dtype=torch.float64)
    return x, torch.randint(2, (3, 8), generator=generator)


def losses_of(network, step: int, shape: str = "rows", absent=()) -> dict[str, torch.Tensor]:
    x, labels = batch(step, shape)
    outputs = network(x)
    return {t: F.cross_entropy(outputs[t], labels[at]) for at, t in enumerate(TASKS) if t not in absent}


class Explicit:
    """The method as it is written: r_k = R_k z, and torch's Adam for R_k = R exp(X), beginning anew with X = 0."""

    def __init__(self, network: Network, rate: float, scale: str) -> None:
        self.network, self.scale = network, scale
        self.bases = {task: torch.eye(5, dtype=torch.float64) for task in TASKS}
        self.free = {task: torch.zeros(5, 5, dtype=torch.float64, requires_grad=True) for task in TASKS}
        self.first = {}
        self.optimizers = {t: torch.optim.Adam([x], lr=rate, eps=1e-30) for t, x in self.free.items()}

    def rotation(self, task):
        free = self.free[task]
        return self.bases[task] @ torch.linalg.matrix_exp((free - free.T) / 2)

    def step(self, number, shape, absent):
        x, labels = batch(number, shape)
        z = self.network.trunk(x)
        axes = "ij,bjhw->bihw" if shape == "images" else "ij,...j->...i"
        present = [task for task in TASKS if task not in absent]
        values, turned = {}, {}
        for task in present:
            turned[task] = torch.einsum(axes, self.bases[task], z)
            values[task] = F.cross_entropy(self.network.head(task, turned[task]), labels[TASKS.index(task)])
        slopes = {t: torch.autograd.grad(values[t], turned[t], retain_graph=True)[0] for t in present}
        seen = {t: torch.autograd.grad(values[t], z, retain_graph=True)[0] for t in present}
        norms = {task: gradient.norm() for task, gradient in seen.items()}
        self.first = {**norms, **self.first}
        ratios = {task: norms[task] / self.first[task] for task in present}
        length = sum(ratios[task] / sum(ratios.values()) * norms[task] for task in present)
        parts = [length * seen[task] / norms[task] for task in present]
        update = sum(parts) / (len(present) if self.scale == "mean" else 1)
        self.fill(z, values, update)
        for task in present:
            back = torch.einsum(axes, self.rotation(task).T, slopes[task])
            self.optimizers[task].zero_grad()
            (-(back * update).sum()).backward()
            self.optimizers[task].step()
            with torch.no_grad():
                self.bases[task] = self.rotation(task)
                self.free[task].zero_()

    def fill(self, z, values, update):
        own = 1 / len(values) if self.scale == "mean" else 1
        trunk = list(self.network.trunk.parameters())
        for parameter, gradient in zip(trunk, torch.autograd.grad(z, trunk, update, retain_graph=True), strict=True):
            parameter.grad = gradient
        for task, head in self.network.heads.items():
            for parameter in head.parameters():
                parameter.grad = torch.zeros_like(parameter)
            if task in values:
                found = torch.autograd.grad(values[task], [*head.parameters()], retain_graph=True)
                for parameter, gradient in zip(head.parameters(), found, strict=True):
                    parameter.grad = own * gradient


def descend(network, size=0.3):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= size * (0 if parameter.grad is None else parameter.grad)
            parameter.grad = None


def train(network, steps, *, method=None, updates=None):
    updates = updates or recon_cli.Updates(network, TASKS, method or METHOD)
    for step in steps:
        updates.backward(losses_of(network, step))
        descend(network)
    return updates


def rotations_of(network):
    return torch.stack([network.rotation(task) for task in TASKS])


@pytest.mark.parametrize("scale", ["mean", "published"])
@pytest.mark.parametrize("rate", [0.05, 0.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_step_is_that_of_the_network_with_explicit_rotations(shape, rate, scale):
    """Measured steps and others in turn, some of them without the labels of a task."""
    ours = recon_cli.rotated(make_network(shape), TASKS, "trunk.out")
    theirs = Explicit(make_network(shape), rate, scale)
    method = Method(**METHOD, scale=scale, parameters={"learning_rate": rate})
    stepper = Stepper(ours, TASKS, method, measured=Measured(discover_layers(ours)))
    for step in range(8):
        absent, measured = (("b",) if step in (0, 3) else ()), step % 3 == 0
        stepper.watch(measured=measured)
        losses = losses_of(ours, step, shape, absent)
        found, _ = stepper.backward({TASKS.index(task): loss for task, loss in losses.items()}, measured=measured)
        assert (found is None) == (not measured)
        theirs.step(step, shape, absent)
        assert_same(gradients_of(ours), gradients_of(theirs.network))
        for network in (ours, theirs.network):
            descend(network)
        for task in TASKS:
            mine = ours.rotation(task)
            if mine is None:
                assert rate == 0 or (task, step) == ("b", 0)
                assert torch.equal(theirs.bases[task], torch.eye(5))
            else:
                torch.testing.assert_close(mine, theirs.bases[task], rtol=0, atol=1e-10)
    assert rate == 0 or not torch.allclose(ours.rotation("a"), torch.eye(5, dtype=torch.float64), atol=0.1)


class Noisy(Network):
    """Running statistics and dropout in the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk.first = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.4))


def test_at_first_nothing_is_turned_and_the_trunk_always_runs_once():
    torch.manual_seed(0)
    plain = Noisy().double()
    network = recon_cli.rotated(copy.deepcopy(plain), TASKS, "trunk.out")
    x, _ = batch(0)
    for expected, found in zip(run(plain, x), run(network, x), strict=True):
        assert torch.equal(found, expected)
    calls = []
    network.trunk.out.register_forward_hook(lambda *call: calls.append(call[1][0]))
    updates = train(network, range(5))
    assert updates.needs == ("gram", "rotations")
    assert int(network.trunk.first[1].num_batches_tracked) == 6
    # Each task's pass goes by, with what the first one has computed.
    assert len(calls) == 15
    assert all(calls[at] is calls[at - at % 3] for at in range(15))


class Counting(TorchDispatchMode):
    """Counts linear layers, which add a bias to a product, and products alone."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func] += 1
        return func(*args, **(kwargs or {}))


def test_a_step_runs_each_head_for_its_own_task_alone():
    network = recon_cli.rotated(make_network(), TASKS, "trunk.out")
    updates = train(network, range(3))
    with Counting() as counting:
        losses = losses_of(network, 3)
    updates.backward(losses)
    assert counting.found[torch.ops.aten.addmm.default] == 1 + 2 * len(TASKS)
    assert counting.found[torch.ops.aten.mm.default] == len(TASKS)


def run(network, x):
    torch.manual_seed(5)
    outputs = network(x)
    return [*outputs.values(), network.trunk.first[1].running_mean]


def test_layers_keep_their_names_and_rotations_are_no_parameters():
    plain = make_network()
    network = recon_cli.rotated(plain, TASKS, "trunk.out")
    assert [(layer.name, layer.type) for layer in discover_layers(network)] == [
        (layer.name, layer.type) for layer in discover_layers(make_network())
    ]
    assert all(mine is own for mine, own in zip(network.parameters(), plain.parameters(), strict=True))
    train(network, range(2))
    names = {f"rotations.tasks.{task}" for task in TASKS}
    assert set(network.state_dict()) - set(plain.state_dict()) == names == set(dict(network.named_buffers()))
    assert not hasattr(plain, "rotations")


def test_the_network_that_was_rotated_still_turns_nothing():
    plain = make_network()
    network = recon_cli.rotated(plain, TASKS, "trunk.out")
    train(network, range(5))
    x, _ = batch(0)
    again = make_network()
    again.load_state_dict(plain.state_dict())
    assert all(torch.equal(plain(x)[task], again(x)[task]) for task in TASKS)
    assert torch.equal(network.trunk(x), plain.trunk(x))
    assert not torch.allclose(network(x)["a"], plain(x)["a"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_rotations_stay_orthogonal(dtype, tolerance):
    network = recon_cli.rotated(make_network(), TASKS, "trunk.out")
    updates = recon_cli.Updates(network, TASKS, {**METHOD, "parameters": {"learning_rate": 0.1}})
    network.to(dtype)
    for step in range(60):
        x, labels = batch(step)
        outputs = network(x.to(dtype))
        updates.backward({t: F.cross_entropy(outputs[t], labels[at]) for at, t in enumerate(TASKS)})
        descend(network)
    rotations = rotations_of(network)
    assert rotations.dtype == dtype
    unit = torch.eye(5, dtype=dtype).expand(3, 5, 5)
    torch.testing.assert_close(rotations @ rotations.mT, unit, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(3, dtype=dtype), rtol=0, atol=10 * tolerance)
    assert (rotations - unit).norm() > 1


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_rotations_do_not_depend_on_the_size_of_the_losses(size):
    turned = []
    for factor in (1.0, size):
        network = recon_cli.rotated(make_network().float(), TASKS, "trunk.out")
        updates = recon_cli.Updates(network, TASKS, METHOD)
        for step in range(4):
            x, labels = batch(step)
            outputs = network(x.float())
            updates.backward({t: factor * F.cross_entropy(outputs[t], labels[at]) for at, t in enumerate(TASKS)})
        turned.append(rotations_of(network))
    assert (turned[0] - torch.eye(5)).abs().max() > 1e-3
    torch.testing.assert_close(turned[1], turned[0], rtol=0, atol=1e-6)


def test_rotations_are_not_rounded_to_half_precision():
    network = recon_cli.rotated(make_network().float(), TASKS, "trunk.out")
    updates = recon_cli.Updates(network, TASKS, METHOD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for step in range(3):
            x, labels = batch(step)
            outputs = network(x.float())
            assert outputs["a"].dtype == torch.bfloat16
            updates.backward({t: F.cross_entropy(outputs[t], labels[at]) for at, t in enumerate(TASKS)})
            descend(network)
    rotations = rotations_of(network)
    assert rotations.dtype == torch.float32
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(5).expand(3, 5, 5), rtol=0, atol=1e-5)
    assert (rotations - torch.eye(5)).abs().max() > 1e-3


def mean_cosine(z, losses):
    """Of the gradients of the feature, between all pairs of tasks."""
    rows = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses.values()])
    unit = rows / rows.norm(dim=1, keepdim=True)
    return float(((unit @ unit.T).sum() - len(rows)) / len(rows) / (len(rows) - 1))


def cosines_over_training(method, steps=120):
    """Two heads that are each other's mirror images, and are to say the same of the same feature."""
    network = make_network()
    network.heads["b"].load_state_dict(network.heads["a"].state_dict())
    with torch.no_grad():
        network.heads["b"][0].weight.neg_()
    network.heads.requires_grad_(False)
    network = recon_cli.rotated(network, TASKS[:2], "trunk.out")
    updates = recon_cli.Updates(network, TASKS[:2], method)
    seen, found = [], []
    network.trunk.out.register_forward_hook(lambda *call: seen.append(call[-1]), prepend=True)
    for step in range(steps):
        seen.clear()
        x, _ = batch(step)
        outputs = network(x)
        losses = {task: F.cross_entropy(outputs[task], (x[:, 0] > 0).long()) for task in TASKS[:2]}
        found.append(mean_cosine(seen[0], losses))
        updates.backward(losses)
        descend(network, 0.1)
    return found


def test_the_gradients_of_the_feature_come_together_where_heads_pull_it_apart():
    joint = cosines_over_training("joint")
    turned = cosines_over_training({**METHOD, "parameters": {"learning_rate": 0.02}})
    assert joint[0] == turned[0] < -0.9
    assert max(joint[-20:]) < -0.9
    assert min(turned[-20:]) > 0.9


def saved(value):
    """What comes out of a file that it was written to."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_saved_state_goes_on_as_if_nothing_had_been(steps):
    network = recon_cli.rotated(make_network(), TASKS, "trunk.out")
    updates = train(network, range(steps))
    other = recon_cli.rotated(make_network(), TASKS, "trunk.out")
    # Whatever it was before.
    train(other, range(7, 9))
    goes_on = recon_cli.Updates(other, TASKS, METHOD)
    other.load_state_dict(saved(network.state_dict()))
    goes_on.load_state_dict(saved(updates.state_dict()))
    train(network, range(steps, 6), updates=updates)
    train(other, range(steps, 6), updates=goes_on)
    assert all(map(torch.equal, other.state_dict().values(), network.state_dict().values()))


@pytest.mark.parametrize("make", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_turn_by_rotations_of_their_own(make):
    network = recon_cli.rotated(make_network(), TASKS, "trunk.out")
    updates = train(network, range(3))
    updates.backward(losses_of(network, 3))
    other = make(network)
    x, _ = batch(0)
    before = network(x)["a"]
    assert torch.equal(other(x)["a"], before)
    train(other, range(3, 5))
    assert torch.equal(network(x)["a"], before)
    assert not torch.equal(other(x)["a"], before)


def test_one_network_can_be_rotated_in_two_places():
    plain = make_network()
    networks = [recon_cli.rotated(plain, TASKS, feature) for feature in ("trunk.out", "trunk.first")]
    train(networks[0], range(3))
    x, _ = batch(0)
    assert all(torch.equal(networks[1](x)[task], plain(x)[task]) for task in TASKS)
    assert networks[1].rotation("a") is None


def test_another_rule_leaves_the_rotations_where_they_are():
    network = recon_cli.rotated(make_network(), TASKS, "trunk.out")
    train(network, range(3))
    before = rotations_of(network)
    train(network, range(3, 5), method="pcgrad")
    assert torch.equal(rotations_of(network), before)


def test_a_profile_counts_the_conflicts_of_the_layers_and_of_the_feature():
    network = recon_cli.rotated(make_network(), TASKS, "trunk.out")
    profiler = recon_cli.ConflictProfiler(network, TASKS, method=METHOD, every=2, features=["trunk.out"])
    for step in range(5):
        profiler.backward(losses_of(network, step))
        descend(network)
    scores = profiler.scores()
    assert [layer.name for layer in scores.layers] == ["trunk.first"]
    assert [(feature.name, feature.tasks) for feature in scores.features] == [("trunk.out", TASKS)]
    assert {"rotations.tasks": "buffers"}.items() <= {layer.name: layer.reason for layer in scores.unranked}.items()
    goes_on = recon_cli.ConflictProfiler(network, TASKS, method=METHOD, every=2, features=["trunk.out"])
    goes_on.load_state_dict(saved(profiler.state_dict()))
    assert goes_on.scores() == scores


class Skipping(Network):
    def forward(self, x):
        z = self.trunk(x)
        return {task: self.head(task, z + self.trunk.first(x)) for task in TASKS}


class Twice(Network):
    def forward(self, x):
        z = self.trunk(x) + self.trunk(2 * x)
        return {task: self.head(task, z) for task in TASKS}


class Named(Network):
    def __init__(self) -> None:
        super().__init__()
        self.rotations = nn.Linear(1, 1)


class Pair(Network):
    def __init__(self) -> None:
        super().__init__()
        self.trunk.out = nn.LSTM(5, 5)

    def forward(self, x):
        return {task: self.head(task, self.trunk(x)[0]) for task in TASKS}


class Vector(Network):
    def forward(self, x):
        return {task: self.head(task, torch.stack([self.trunk(row) for row in x])) for task in TASKS}


class Unused(Network):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(1, 1)


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize(
    ("kind", "feature", "message"),
    [
        (Skipping, "trunk.out", "`trunk.first.weight`, `trunk.first.bias` not only through"),
        (Twice, "trunk.out", "reach 2 outputs of module `trunk.out`"),
        (Pair, "trunk.out", "but a feature is one tensor|cannot be rotated: it is a `tuple`"),
        (Vector, "trunk.out", r"cannot be rotated: it is of the shape \(5,\)"),
        (Unused, "spare", "no loss reaches an output of module `spare`"),
    ],
)
def test_a_feature_that_cannot_be_rotated_is_a_clear_error(kind, feature, message, measured):
    network = recon_cli.rotated(kind().double(), TASKS, feature)
    stepper = Stepper(
        network,
        TASKS,
        Method(name="rotograd", feature=feature),
        measured=Measured(discover_layers(network)),
    )
    stepper.watch(measured=measured)
    with pytest.raises(ReconError, match=message):
        stepper.backward(dict(enumerate(losses_of(network, 0).values())), measured=measured)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("network", "feature", "message"),
    [
        (make_network, "trunk.uot", "has no module `trunk.uot`"),
        (make_network, "", "has no module ``"),
        (Named, "trunk.out", "the network has `rotations` already"),
        (lambda: recon_cli.rotated(make_network(), TASKS, "trunk"), "trunk.out", "is rotated already"),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 5))), "0", "a TorchScript network cannot be rotated"),
    ],
)
def test_a_network_that_cannot_be_rotated_is_a_clear_error(network, feature, message):
    with pytest.raises(ReconError, match=message):
        recon_cli.rotated(network(), TASKS, feature)


@pytest.mark.parametrize(
    ("rotate", "method", "message", "hint"),
    [
        ("trunk.out", "rotograd", "rotates a feature that all tasks share, and none is named", "feature: trunk.pool"),
        (None, METHOD, "the network has no rotations", r"recon_cli.rotated\(model, tasks, \"trunk.out\"\)"),
        ("trunk.first", METHOD, "rotated behind `trunk.first` for .*, but the rule .* is to turn `trunk.out`", ""),
    ],
)
def test_a_method_without_its_rotations_is_a_clear_error(rotate, method, message, hint):
    network = make_network() if rotate is None else recon_cli.rotated(make_network(), TASKS, rotate)
    with pytest.raises(ReconError, match=message) as caught:
        recon_cli.Updates(network, TASKS, method)
    assert re.search(hint, caught.value.hint or "")


def test_the_default_learning_rate_is_small():
    network = recon_cli.rotated(make_network(), TASKS, "trunk.out")
    train(network, range(1))
    # The first step of Adam is as long as its rate.
    turned = rotations_of(network) - torch.eye(5, dtype=torch.float64)
    assert float(turned.abs().max()) == pytest.approx(RotoGradParameters().learning_rate, rel=0.01)
