"""`Updates` and `ConflictProfiler` in somebody's own loop, alone and under DistributedDataParallel."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import recon_cli
from recon_cli.errors import ReconError
from recon_cli.rules.registry import RULES
from tests.profiling.test_ranks import data, losses_of, make_network
from tests.ranks import run_on_ranks
from tests.updating.steps import RULES_FOR_ANY

TASKS = ["a", "b", "c"]
STEPS = 4
METHODS = {
    **{name: name for name in RULES_FOR_ANY},
    "mgda by layer": {"name": "mgda", "per": "layer"},
    "aligned-mtl of a feature": {"name": "aligned-mtl", "feature": "trunk"},
    "rotograd": {"name": "rotograd", "feature": "trunk", "parameters": {"learning_rate": 0.05}},
}
WAYS = {"updates": recon_cli.Updates, "profiler": partial(recon_cli.ConflictProfiler, every=2)}


LOOKING = [name for name in RULES_FOR_ANY if {"gram", "gradients"} & set(RULES[name].NEEDS)]


def losses_by_name(network, step):
    return dict(zip(TASKS, losses_of(network, step, 0, partial=False), strict=True))


class Untied(nn.Module):
    """All tasks, and all parameters of the trunk, meet in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 8), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(3))

    def forward(self, tokens):
        x = self.trunk(tokens)
        return [head(x) for head in self.heads]


def network_for(method):
    """The network of the tests of ranks, or one that has a feature."""
    if "feature" not in method:
        return make_network()
    torch.manual_seed(5)
    network = Untied().double()
    return recon_cli.rotated(network, TASKS, "trunk") if "rotograd" in method.values() else network


def train(network, made, losses_at):
    """A user's loop; `losses_at(step)` are the losses by task."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        made.backward(losses_at(step))
        optimizer.step()
        made.after_step(lambda step=step: losses_at(step))
        made.after_epoch()
    return [*(parameter.detach() for parameter in network.parameters()), *network.buffers()]


def train_in_parallel(rank: int, size: int, folder: str) -> None:
    """What each rank does: every rule, with labels of all tasks and with some."""
    found = {}
    for way, make in WAYS.items():
        for name, method in METHODS.items():
            for some in (False, True):
                network = network_for(method)
                parallel = DistributedDataParallel(network, find_unused_parameters=some)
                made = make(parallel, TASKS, method=method)

                def losses_at(step, parallel=parallel, some=some):
                    losses = losses_of(parallel, step, rank, partial=False)
                    if some and (rank + step) % 2:
                        losses[1] = None
                    return dict(zip(TASKS, losses, strict=True))

                found[way, name, some] = train(network, made, losses_at)
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    run_on_ranks(train_in_parallel, 2, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def train_alone(method, make, *, some: bool):
    """The same loop in one process, on the batches of both ranks together."""
    network = network_for(method)
    made = make(network, TASKS, method=method)

    def losses_at(step):
        parts = [data(step, rank) for rank in range(2)]
        outputs = network(torch.cat([tokens for tokens, _ in parts]))
        labels = torch.cat([labels for _, labels in parts], dim=1)
        losses = {task: F.cross_entropy(outputs[at], labels[at]) for at, task in enumerate(TASKS)}
        if some:
            half = len(labels[1]) // 2
            rows = slice(half) if step % 2 == 0 else slice(half, None)
            losses["b"] = F.cross_entropy(outputs[1][rows], labels[1][rows])
        return losses

    return train(network, made, losses_at)


@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_ranks_train_as_one_process_with_their_batches_does(found, way, name, some):
    if (name, some) == ("joint", True):
        pytest.skip("plain joint steps are DistributedDataParallel's own: every rank takes the mean of what it has")
    expected = train_alone(METHODS[name], WAYS[way], some=some)
    for rank in range(2):
        for mine, alone in zip(found[rank][way, name, some], expected, strict=True):
            torch.testing.assert_close(mine, alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", RULES_FOR_ANY)
def test_measured_steps_train_as_the_others_do(name):
    """The profiler, which measures every other step, and Updates, which measures none, make the same network."""

    def losses_at(network):
        return lambda step: dict(zip(TASKS, losses_of(network, step, 0, partial=False), strict=True))

    made = []
    for make in WAYS.values():
        network = make_network()
        made.append(train(network, make(network, TASKS, method=name), losses_at(network)))
    for mine, own in zip(*made, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-9, atol=1e-11)


def test_the_scores_name_the_method():
    network = make_network()
    profiler = recon_cli.ConflictProfiler(network, TASKS, every=1, method={"name": "cagrad", "parameters": {"c": 0.5}})
    profiler.backward(dict(zip(TASKS, losses_of(network, 0, 0, partial=False), strict=True)))
    method = profiler.scores().method
    assert (method.name, method.parameters) == ("cagrad", {"c": 0.5})


def test_a_profilers_saved_state_holds_what_the_rule_has_learned():
    network = make_network()
    profiler = recon_cli.ConflictProfiler(network, TASKS, every=2, method="gradnorm")

    def step(profiler, network, at):
        profiler.backward(dict(zip(TASKS, losses_of(network, at, 0, partial=False), strict=True)))

    for at in range(3):
        step(profiler, network, at)
    other = make_network()
    goes_on = recon_cli.ConflictProfiler(other, TASKS, every=2, method="gradnorm")
    goes_on.load_state_dict(profiler.state_dict())
    for each in (network, other):
        each.zero_grad()
    step(profiler, network, 3)
    step(goes_on, other, 3)
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(mine.grad, own.grad) for mine, own in pairs)
    assert goes_on.scores() == profiler.scores()


def test_attention_is_differentiated_twice_where_it_runs_as_it_was_written():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.rand(2, 3, 4)

    def losses():
        y, _ = layer(x, x, x, need_weights=False)
        return {"a": y.square().mean(), "b": y[..., 0].mean()}

    updates = recon_cli.Updates(layer, ["a", "b"], "cosreg")
    with pytest.raises(ReconError, match="cannot be differentiated a second time") as caught:
        updates.backward(losses())
    assert "SDPBackend.MATH" in caught.value.hint
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        given = losses()
    updates.backward(given)
    assert layer.in_proj_weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([1.0], "a mapping from task to loss is needed"),
        ({"d": torch.zeros((), requires_grad=True)}, "the losses name `d`"),
        ({"a": None}, "no task has a loss"),
        ({"a": torch.zeros(2, requires_grad=True)}, r"has the shape \(2,\); a scalar is needed"),
        ({"a": 1.0}, "is a `float`; a scalar tensor is needed"),
        ({"a": torch.zeros(())}, "depends on no trainable parameter"),
    ],
)
def test_losses_that_cannot_be_are_a_clear_error(losses, message):
    with pytest.raises(ReconError, match=message):
        recon_cli.Updates(make_network(), TASKS, "mgda").backward(losses)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "mgda", "per": "network"}, "the method cannot be set so: `per`"),
        ({"name": "gradops", "alpha": 1.0}, "a method has no setting `alpha`"),
        ({"name": "mgda", "layers": []}, "the method cannot be set so"),
        (3, "the method cannot be set so"),
    ],
)
def test_a_method_that_cannot_be_is_a_clear_error(method, message):
    with pytest.raises(ReconError, match=message):
        recon_cli.Updates(make_network(), TASKS, method)


def test_a_method_may_be_named_as_its_paper_does():
    assert recon_cli.Updates(make_network(), TASKS, "GradOPS").needs == ("gram",)
    assert recon_cli.Updates(make_network(), TASKS, "Nash_MTL").needs == ("gram",)


@pytest.mark.parametrize("name", LOOKING)
def test_losses_of_another_network_are_refused(name):
    updates = recon_cli.Updates(make_network(), TASKS, name)
    with pytest.raises(ReconError, match="the losses reach none of the network's layers"):
        updates.backward(losses_by_name(make_network(), 0))


def test_famo_says_that_it_learned_nothing_from_a_step():
    network = make_network()
    updates = recon_cli.Updates(network, TASKS, "famo")
    for step in range(3):
        updates.backward(losses_by_name(network, step))
        if step == 0:
            updates.after_step(partial(losses_by_name, network, step))
        # Nothing is to be learned from a step that was not made.
        with pytest.raises(recon_cli.NonFiniteError):
            updates.backward({**losses_by_name(network, step), "a": losses_by_name(network, step)["a"] * torch.nan})
    assert dict(updates.notes) == {"FAMO learns nothing from a step without `after_step`": 1}


@pytest.mark.parametrize("scale", [0.0, -1.0, torch.nan])
def test_a_scale_that_is_none_is_refused(scale):
    network = make_network()
    with pytest.raises(ReconError, match="cannot be scaled by"):
        recon_cli.Updates(network, TASKS, "mgda").backward(losses_by_name(network, 0), scale=scale)


def test_a_foreign_state_is_a_clear_error_and_changes_nothing():
    updates = recon_cli.Updates(make_network(), TASKS, "mgda")
    with pytest.raises(ReconError, match="not one of Updates"):
        updates.load_state_dict({})
    method = {"name": "gradvac", "per": "layer"}
    updates = recon_cli.Updates(make_network(), TASKS, method)
    foreign = recon_cli.Updates(nn.Linear(1, 1), TASKS, method, seed=7).state_dict()
    before = copy.deepcopy(updates.state_dict())
    with pytest.raises(ReconError, match="of another network"):
        updates.load_state_dict(foreign)
    after = updates.state_dict()
    generators = zip(before["rules"], after["rules"], strict=True)
    assert all(torch.equal(one["generator"], other["generator"]) for one, other in generators)


SCALED = {**METHODS, "nash-mtl as published": {"name": "nash-mtl", "scale": "published"}}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_scaler_changes_nothing_but_the_size_of_gradients(way, name):
    """Also if its scale changes, and a task comes later."""
    found = []
    for scales in ((1.0, 1.0, 1.0), (1024.0, 65536.0, 32.0)):
        network = network_for(SCALED[name])
        made = WAYS[way](network, TASKS, method=SCALED[name])
        for step, scale in enumerate(scales):
            network.zero_grad()
            losses = losses_by_name(network, step)
            made.backward({**losses, "c": None} if step == 0 else losses, scale=scale)
            with torch.no_grad():
                for parameter in network.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad / scale
            made.after_step(partial(losses_by_name, network, step))
        found.append([parameter.detach() for parameter in network.parameters()])
    for plain, scaled in zip(*found, strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-8)


DRAWING = ("pcgrad", "gradvac", "rgw", "graddrop")


@pytest.mark.parametrize("name", LOOKING)
@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_overflows_is_an_error_after_which_the_next_one_is_right(way, name):
    found = []
    for overflows in (False, True):
        network = make_network()
        made = WAYS[way](network, TASKS, method=name)
        if overflows:
            with pytest.raises(recon_cli.NonFiniteError):
                made.backward(losses_by_name(network, 0), scale=torch.inf)
            assert all(parameter.grad is None for parameter in network.parameters())
        made.backward(losses_by_name(network, 0))
        found.append([parameter.grad for parameter in network.parameters()])
    if name not in DRAWING:
        for plain, after in zip(*found, strict=True):
            torch.testing.assert_close(after, plain)


def test_a_scaler_that_is_told_of_steps_that_overflow_lowers_its_scale():
    """The recipe of the documentation."""
    network = make_network().float()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1000)
    updates = recon_cli.Updates(network, TASKS, "mgda")
    made = 0
    for step in range(40):
        optimizer.zero_grad()
        scale = float(scaler.scale(torch.ones(())))
        try:
            updates.backward(losses_by_name(network, step), scale=scale)
        except recon_cli.NonFiniteError:
            scaler.update(scale / 16)
            continue
        scaler.step(optimizer)
        scaler.update()
        made += 1
    assert 20 < made < 40


@pytest.mark.parametrize("make", [partial(recon_cli.Updates), partial(recon_cli.ConflictProfiler, every=1)])
def test_famo_takes_the_random_numbers_of_its_own_step_after_one_that_was_refused(make):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2))
    made = make(network, ["a", "b"], method="famo")
    x = torch.rand(3, 4)
    masks = []

    def losses(factor=1.0):
        y = network(x).square().mean(0) + 1
        masks.append(y.detach())
        return {"a": y[0] * factor, "b": y[1] * factor}

    with pytest.raises(ReconError):
        made.backward(losses(torch.nan))
    made.backward(losses())
    made.after_step(losses)
    assert torch.equal(masks[2], masks[1])


def test_cosreg_is_as_precise_in_an_open_autocast_context():
    found = []
    for is_open in (False, True):
        network = make_network().float()
        losses = {task: 1e-3 * loss for task, loss in losses_by_name(network, 0).items()}
        with torch.autocast("cpu", torch.float16, enabled=is_open):
            recon_cli.Updates(network, TASKS, "cosreg").backward(losses)
        found.append([parameter.grad for parameter in network.parameters()])
    for plain, within in zip(*found, strict=True):
        torch.testing.assert_close(within, plain)


def test_a_profilers_foreign_state_changes_nothing():
    network = make_network()
    foreign = recon_cli.ConflictProfiler(network, TASKS, every=1)
    foreign.backward(losses_by_name(network, 0))
    profiler = recon_cli.ConflictProfiler(network, TASKS, every=1, method="gradops")
    with pytest.raises(ReconError, match="one of the method `joint`"):
        profiler.load_state_dict(foreign.state_dict())
    with pytest.raises(ReconError, match="nothing was measured yet"):
        profiler.scores()
