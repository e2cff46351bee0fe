"""CosReg on networks and steps out of the ordinary, against its penalty differentiated by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import recon_cli
from recon_cli.errors import ReconError
from tests.updating.steps import assert_same, gradients_of

TASKS = ["a", "b"]
WAYS = {"updates": recon_cli.Updates, "profiler": recon_cli.ConflictProfiler}


class Network(nn.Module):
    """A trunk, and a head for each of two tasks."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in TASKS)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        z = torch.tanh(self.trunk(x))
        return [head(z) for head in self.heads]


class Complex(nn.Module):
    """A complex weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.complex128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(self.weight.dtype) @ self.weight).abs()


class Once(torch.autograd.Function):
    """Doubles; its gradient has none."""

    @staticmethod
    def forward(_, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_, gradient):
        return 2 * gradient


class Calling(nn.Module):
    """A linear layer, called in some other way."""

    def __init__(self, call) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self.layer, x)


def batch() -> torch.Tensor:
    return torch.rand(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def losses_of(network, x) -> dict[str, torch.Tensor]:
    one, two = network(x)
    return {"a": one.square().mean(), "b": (two - 1).abs().mean()}


def expected_update(network, losses, penalised) -> dict[str, torch.Tensor]:
    """The gradient of the mean of the losses and the squared cosine of the gradients of some parameters."""
    rows = []
    for loss in losses.values():
        gradients = torch.autograd.grad(loss, penalised, create_graph=True)
        flat = [g.to_dense() if g.is_sparse else g for g in gradients]
        flat = [torch.view_as_real(g) if g.is_complex() else g for g in flat]
        rows.append(torch.cat([g.flatten().double() for g in flat]))
    total = sum(losses.values()) / 2 + torch.cosine_similarity(*rows, dim=0) ** 2
    found = torch.autograd.grad(total, [*network.parameters()])
    pairs = zip(network.named_parameters(), found, strict=True)
    return {name: g.to_dense() if g.is_sparse else g for (name, _), g in pairs}


def mixed() -> nn.Module:
    """A layer in single precision before one in double."""

    def call(layer, x):
        return layer(x.float()).double()

    return nn.Sequential(Calling(call).float(), nn.LayerNorm(4).double())


def make(trunk) -> Network:
    torch.manual_seed(0)
    network = Network(nn.Identity()).double()
    network.trunk = trunk()
    return network


TRUNKS = {
    "complex": (Complex, batch),
    "sparse": (lambda: nn.Embedding(5, 4, sparse=True).double(), lambda: torch.tensor([0, 2, 2, 3])),
    "of two precisions": (mixed, batch),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", TRUNKS)
def test_gradients_of_any_kind_are_penalised(kind, way):
    trunk, inputs = TRUNKS[kind]
    network = make(trunk)
    WAYS[way](network, TASKS, method="cosreg").backward(losses_of(network, inputs()))
    found = {name: g.to_dense() if g.is_sparse else g for name, g in gradients_of(network).items()}
    losses = losses_of(network, inputs())
    tolerance = 1e-5 if kind == "of two precisions" else 1e-9
    assert_same(found, expected_update(network, losses, [*network.trunk.parameters()]), tolerance)


def test_half_precision_keeps_the_slopes():
    network = make(lambda: nn.Linear(4, 4).double())
    rounded = make(lambda: nn.Linear(4, 4).double())
    networks = [network, rounded.half()]
    found = []
    for each, dtype in zip(networks, (torch.float64, torch.half), strict=True):
        # Gradients of 1e-4 have slopes that half precision does not hold.
        losses = {task: loss * 1e-3 for task, loss in losses_of(each, batch().to(dtype)).items()}
        recon_cli.Updates(each, TASKS, "cosreg").backward(losses)
        found.append({name: g.double() for name, g in gradients_of(each).items()})
    assert_same(found[1], found[0], 0.05)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_without_a_pair_of_tasks_is_a_joint_step(way):
    network = make(lambda: nn.Linear(4, 4).double())
    loss = losses_of(network, batch())["a"]
    expected = dict(zip(dict(network.named_parameters()), [*grads_of(loss, network)], strict=True))
    WAYS[way](network, TASKS, method="cosreg").backward({"a": loss})
    assert_same(gradients_of(network), expected)


def grads_of(loss, network):
    found = torch.autograd.grad(loss, [*network.parameters()], allow_unused=True, retain_graph=True)
    for parameter, gradient in zip(network.parameters(), found, strict=True):
        yield torch.zeros_like(parameter) if gradient is None else gradient


@pytest.mark.parametrize("way", WAYS)
def test_nothing_but_the_input_is_trained(way):
    network = make(lambda: nn.Linear(4, 4).double())
    made = WAYS[way](network, TASKS, method="cosreg")
    network.requires_grad_(False)
    x = batch().requires_grad_()
    made.backward(losses_of(network, x))
    mine, x.grad = x.grad, None
    (sum(losses_of(network, x).values()) / 2).backward()
    torch.testing.assert_close(mine, x.grad)


def test_parameters_that_came_later_are_trained_but_not_penalised():
    network = make(lambda: nn.Sequential(nn.Linear(4, 4).double()))
    updates = recon_cli.Updates(network, TASKS, "cosreg")
    network.trunk.append(nn.Linear(4, 4).double())
    updates.backward(losses_of(network, batch()))
    expected = expected_update(network, losses_of(network, batch()), [*network.trunk[0].parameters()])
    assert_same(gradients_of(network), expected)


def test_only_the_layers_that_are_looked_at_are_penalised():
    network = make(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double())
    updates = recon_cli.Updates(network, TASKS, {"name": "cosreg", "layers": ["trunk.2"]})
    updates.backward(losses_of(network, batch()))
    expected = expected_update(network, losses_of(network, batch()), [*network.trunk[2].parameters()])
    assert_same(gradients_of(network), expected)


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (lambda: Calling(lambda layer, x: Once.apply(layer(x))), "cannot be differentiated a second time"),
        (lambda: Calling(lambda layer, x: checkpoint(layer, x, use_reentrant=True)), "reentrant activation"),
    ],
)
def test_what_has_no_second_derivatives_is_a_clear_error(trunk, message):
    network = make(lambda: trunk().double())
    updates = recon_cli.Updates(network, TASKS, "cosreg")
    losses = losses_of(network, batch().requires_grad_())
    with pytest.raises(ReconError, match=message):
        updates.backward(losses)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_heads_of_a_torchscript_network_are_not_taken_for_shared():
    network = make(lambda: nn.Linear(4, 4).double())
    scripted = torch.jit.script(network)
    updates = recon_cli.Updates(scripted, TASKS, "cosreg")
    # TorchScript makes one node of the whole network from the second run on.
    for _ in range(3):
        scripted.zero_grad()
        updates.backward(losses_of(scripted, batch()))
    expected = expected_update(network, losses_of(network, batch()), [*network.trunk.parameters()])
    assert_same(gradients_of(scripted), expected)


def test_tiny_gradients_have_slopes_that_are_numbers():
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    y = 1e-19 * layer(torch.ones(1, 4)).square().sum(0)
    recon_cli.Updates(layer, ["a", "b"], "cosreg").backward({"a": y[0] - 0.2 * y[1], "b": y[1]})
    assert layer.weight.grad.isfinite().all()


def test_a_penalty_on_heads_alone_is_refused():
    network = nn.ModuleDict({"trunk": nn.Linear(3, 3), "a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})
    updates = recon_cli.Updates(network, ["a", "b"], {"name": "cosreg", "layers": ["a"]})
    z = network["trunk"](torch.ones(1, 3))
    with pytest.raises(recon_cli.ReconError, match="none of the layers that the method looks at is shared"):
        updates.backward({task: network[task](z).sum() for task in "ab"})
