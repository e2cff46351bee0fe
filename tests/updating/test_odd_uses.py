"""What went wrong once: uses that the catalogue of steps does not have."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import recon_cli
from recon_cli.rules.registry import make_rule
from recon_cli.rules.rule import Observation

TASKS = ["a", "b", "c"]


class Network(nn.Module):
    """A trunk, a layer of two tasks behind it, and heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.some = nn.Linear(5, 5)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS})

    def forward(self, x):
        z = self.trunk(x)
        return {task: head(z if task == "a" else self.some(z)) for task, head in self.heads.items()}


def losses_of(network, step, tasks):
    generator = torch.Generator().manual_seed(step)
    outputs = network(torch.randn(6, 4, generator=generator, dtype=torch.float64))
    labels = torch.randint(2, (3, 6), generator=generator)
    return {task: F.cross_entropy(outputs[task], labels[TASKS.index(task)]) for task in tasks}


@pytest.mark.parametrize("present", [("abc", "ab"), ("a",)])
def test_with_a_feature_steps_train_alike_whether_they_are_measured_or_not(present):
    """Short steps take `some` for shared by what this step's losses reach, and the trunk always; measured ones know
    what was reached so far."""
    method = {"name": "nash-mtl", "feature": "trunk", "scale": "published"}
    measured, plain = Network().double(), Network().double()
    profiler = recon_cli.ConflictProfiler(measured, TASKS, method=method, every=1)
    updates = recon_cli.Updates(plain, TASKS, method)
    for step, tasks in enumerate(present):
        for network, made in ((measured, profiler), (plain, updates)):
            network.zero_grad()
            made.backward(losses_of(network, step, tasks))
    for mine, own in zip(measured.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, own.grad)


def test_passes_that_are_not_followed_by_an_update_hold_no_inputs():
    """As in warm-up epochs by plain `backward()`, while Updates exist already."""
    network = Network().double()
    updates = recon_cli.Updates(network, TASKS, "mgda")
    inputs = []
    network.heads["a"].register_forward_hook(lambda *call: inputs.append(weakref.ref(call[1][0].untyped_storage())))
    for step in range(3):
        sum(losses_of(network, step, TASKS).values()).backward()
    gc.collect()
    assert [kept() for kept in inputs] == [None] * 3
    assert updates.needs == ("gram",)


def test_large_weights_in_half_precision():
    """Weights are rounded to the gradients' own type, where those of Nash-MTL are infinite."""
    layer = nn.Linear(64, 1, bias=False).half()
    v = torch.randn(64, generator=torch.Generator().manual_seed(0))
    u = -v + 0.5 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    rows = [v.half(), (u * 1e-5).half()]
    losses = {task: (layer.weight * row).sum() for task, row in zip("ab", rows, strict=True)}
    recon_cli.Updates(layer, ["a", "b"], "nash-mtl").backward(losses)
    precise = torch.stack(rows).double()
    seen = Observation(torch.zeros(2), precise @ precise.T)
    expected = make_rule("nash-mtl", ["a", "b"]).weights(seen).shared @ precise
    torch.testing.assert_close(layer.weight.grad[0].double(), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["mgda", "nash-mtl", "gradops", "imtl-g", "cagrad"])
def test_gradients_two_hundred_decades_apart(name):
    scales = torch.tensor([1e-110, 1e110], dtype=torch.float64)
    rows = torch.tensor([[1.0, 0.5], [0.5, -1.0]], dtype=torch.float64) * scales.unsqueeze(1)
    weights = make_rule(name, ["a", "b"]).weights(Observation(torch.ones(2), rows @ rows.T))
    assert weights.shared.isfinite().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch._dynamo")
def test_famo_of_a_network_that_is_compiled_as_one_graph():
    """The hook that notes random states is compiled with the network if only the network itself is handed over."""
    torch._dynamo.reset()
    network = nn.Sequential(nn.Linear(4, 2), nn.Dropout())
    run = torch.compile(network, backend="eager", fullgraph=True)
    updates = recon_cli.Updates(network, ["a", "b"], "famo")
    y = run(torch.ones(3, 4)).square()
    updates.backward({"a": y[:, 0].mean() + 1, "b": y[:, 1].mean() + 1})
    assert network[0].weight.grad is not None


def test_famo_says_which_task_has_no_loss_after_the_step():
    network = Network().double()
    updates = recon_cli.Updates(network, TASKS, "famo")
    updates.backward(losses_of(network, 0, "abc"))
    with pytest.raises(recon_cli.ReconError, match="no loss"):
        updates.after_step(lambda: losses_of(network, 0, "ab"))


def no_parameters():
    return nn.Tanh()


@pytest.mark.parametrize(
    ("make", "tasks", "method", "seed", "message"),
    [
        (Network, "abc", "mgda", 0, "`abc` is no list of task names"),
        (Network, [1, 2], "mgda", 0, "is no list of task names"),
        (Network, TASKS, "pcgrad", 1.5, "`1.5` is no seed"),
        (Network, TASKS, "pcgrad", 2**64, "is no seed"),
        (no_parameters, TASKS, "mgda", 0, "the network has no parameters"),
    ],
)
def test_what_nothing_can_be_made_of_is_a_clear_error(make, tasks, method, seed, message):
    with pytest.raises(recon_cli.ReconError, match=message):
        recon_cli.Updates(make(), tasks, method, seed=seed)


def test_a_rule_that_looks_at_heads_alone_sees_nothing():
    network = Network().double()
    updates = recon_cli.Updates(network, TASKS, {"name": "mgda", "layers": ["heads.*"]})
    with pytest.raises(recon_cli.ReconError, match="none of the layers that the method looks at is shared"):
        updates.backward(losses_of(network, 0, "abc"))


@pytest.mark.parametrize("size", [1e-12, 1e12])
@pytest.mark.parametrize(
    "name", ["pcgrad", "gradvac", "mgda", "cagrad", "nash-mtl", "aligned-mtl", "imtl-g", "gradops"]
)
def test_single_precision_gradients_of_any_ordinary_size(name, size):
    found = []
    for factor in (1.0, size):
        torch.manual_seed(1)
        layer = nn.Linear(40, 3)
        updates = recon_cli.Updates(layer, TASKS, name)
        y = layer(torch.randn(5, 40, generator=torch.Generator().manual_seed(2))).square().mean(0) * factor
        updates.backward({"a": y[0] - 0.4 * y[1], "b": y[1] - 0.4 * y[2], "c": y[2] - 0.4 * y[0]})
        found.append(layer.weight.grad / factor)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
