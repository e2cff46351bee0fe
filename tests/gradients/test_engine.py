"""The engine against float64 autograd, one backward pass after the other, on networks of every awkward kind."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from recon_cli.errors import ReconError
from recon_cli.gradients import engine as engine_module
from recon_cli.gradients.engine import GramEngine
from recon_cli.gradients.products import inner_products
from recon_cli.layers.discovery import discover_layers
from recon_cli.zoo import small_resnet
from tests import networks

Losses = Callable[[nn.Module], list[torch.Tensor]]


def squares(*outputs: torch.Tensor) -> list[torch.Tensor]:
    """A loss for each output, each weighing its parts differently."""
    return [
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum()
        + (index + 1) * output.pow(2).mean()
        for index, output in enumerate(outputs)
    ]


def of_mapping(x: torch.Tensor) -> Losses:
    return lambda model: squares(*model(x).values())


def sums(x: torch.Tensor) -> Losses:
    """Losses that an empty batch has, too."""
    return lambda model: [output.sum() for output in model(x).values()]


class Heads(nn.Module):
    """A trunk of the test's own between an input and two heads."""

    def __init__(self, trunk: nn.Module, features: int, tasks: int = 2) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(features, 2) for _ in range(tasks))

    def forward(self, x):
        x = self.trunk(x)
        x = x.flatten(2).mean(2) if x.dim() == 4 else x
        return {str(i): head(x) for i, head in enumerate(self.heads)}


class Functional(nn.Module):
    """A weight that is used by its layer, and once more by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(self.layer(x), self.layer.weight)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Skips(nn.Module):
    """Layers whose outputs are used again far behind, so that the graph hangs on many edges nearly everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    def forward(self, x):
        kept = []
        for layer in self.down:
            x = torch.tanh(layer(x))
            kept.append(x)
        outputs = {}
        for number, layer in enumerate(self.up):
            x = torch.tanh(layer(x) + kept.pop() * x)
            outputs[str(number)] = self.heads[number](x)
        return outputs


class ReadsAfterWriting(nn.Module):
    """The input of a layer is overwritten later, which autograd does not mind where the weight is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(torch.relu_(self.first(x)))


class Doubling(nn.Module):
    """A hook puts something else in the output's place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.layer.register_forward_hook(lambda *call: call[-1] * 2)

    def forward(self, x):
        return self.layer(x)


class WrittenTo(nn.Module):
    """Outputs on sequences, which are views, are written to by what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.second(torch.relu_(self.first(x)))
        x[:, 0] += 1
        return x.mean(1)


class Unheard(nn.Module):
    """Nothing depends on the layer's output, but something on its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        self.seen = self.layer(x)
        return F.linear(x * 2, self.layer.weight, self.layer.bias)


def replaced_forward() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: F.linear(x * 2, layer.weight, layer.bias)
    return layer


def with_hook(hook: Callable[..., torch.Tensor]) -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(hook)
    return nn.Sequential(layer, nn.Flatten())


class Remembering(torch.autograd.Function):
    """An operation whose context has an attribute as the graph's leaves do."""

    @staticmethod
    def forward(ctx, x):
        ctx.variable = x
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2 * torch.ones_like(ctx.variable)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return Remembering.apply(self.layer(x))


class Forces(nn.Module):
    """A layer, and the gradient with respect to its input, as in networks of energies and forces."""

    def __init__(self, *, with_energies: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.with_energies = with_energies

    def forward(self, x):
        x = x.detach().requires_grad_()
        energies = self.second(torch.tanh(self.first(x)))
        (forces,) = torch.autograd.grad(energies.sum(), x, create_graph=True)
        return forces + energies if self.with_energies else forces


class Lent(nn.Module):
    """A layer is called with other parameters than its own, which are used by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.lender = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        lent = {name: parameter * 1 for name, parameter in self.lender.named_parameters()}
        fixed = {name: value.detach().requires_grad_() for name, value in lent.items()}
        called = functional_call(self.layer, lent, x) + functional_call(self.layer, fixed, x)
        return called + F.linear(x * 2, self.layer.weight, self.layer.bias)


class Ragged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        ragged = torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged)
        return torch.stack([part.mean(0) for part in torch.tanh(self.layer(ragged)).unbind()])


class FromSparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x.to_sparse())


class OnlyForOne(nn.Module):
    """A layer that one task of three does not reach, and one that only one reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.some, self.own = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.trunk(x)
        return {"a": x, "b": self.some(x), "c": self.own(self.some(x))}


class Words(nn.Module):
    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4, padding_idx=padding)
        self.mix = nn.Linear(4, 4)

    def forward(self, tokens):
        return self.mix(self.table(tokens)).mean(1)


def frozen_bias() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.bias.requires_grad_(False)
    return layer


def no_features(inputs: int, outputs: int) -> nn.Module:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter(torch.zeros(outputs, inputs))
    return layer


def penalised(x: torch.Tensor) -> Losses:
    """A penalty on a weight in the second task's loss, besides the outputs."""

    def compute(model: nn.Module) -> list[torch.Tensor]:
        first, second = of_mapping(x)(model)
        return [first, second + model.trunk.weight.pow(2).sum()]

    return compute


def nested(x: torch.Tensor) -> Losses:
    """The first task's loss is a part of the second's."""

    def compute(model: nn.Module) -> list[torch.Tensor]:
        first, second = of_mapping(x)(model)
        return [first, second * first.detach() + first]

    return compute


def images(channels: int = 2) -> torch.Tensor:
    return torch.randn(3, channels, 7, 6, dtype=torch.float64)


def rows() -> torch.Tensor:
    return torch.randn(5, 4, dtype=torch.float64)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Losses]]] = {
    "residual network": (small_resnet, lambda: of_mapping(torch.randn(2, 1, 20, 20, dtype=torch.float64))),
    "convolutions": (networks.TwoTasks, lambda: of_mapping(images(1))),
    "stride, padding, dilation": (
        lambda: Heads(nn.Sequential(nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 2), (1, 2)), nn.Conv2d(4, 3, 1, 2)), 3),
        lambda: of_mapping(images()),
    ),
    "grouped convolutions and padding by name": (
        lambda: Heads(
            nn.Sequential(nn.Conv2d(2, 4, (3, 2), groups=2), nn.Conv2d(4, 4, (3, 5), padding="same", dilation=(1, 2))),
            4,
        ),
        lambda: of_mapping(images()),
    ),
    "reflected padding": (
        lambda: Heads(nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="reflect"), 4), lambda: of_mapping(images()),
    ),
    "padding in a circle": (
        lambda: Heads(nn.Conv2d(2, 4, 3, padding="same", padding_mode="circular"), 4), lambda: of_mapping(images()),
    ),
    "convolutions in one dimension": (
        lambda: Heads(
            nn.Sequential(nn.Conv1d(4, 4, 2, dilation=2), nn.Conv1d(4, 6, 2, 2, 1, groups=2), nn.Flatten()), 12
        ),
        lambda: of_mapping(torch.randn(2, 4, 5, dtype=torch.float64)),
    ),
    "convolutions in three dimensions": (
        lambda: Heads(nn.Sequential(nn.Conv3d(2, 4, (2, 3, 1), (1, 2, 1), (1, 0, 2), groups=2), nn.Flatten()), 144),
        lambda: of_mapping(torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)),
    ),
    "a convolution of one image": (
        lambda: Heads(nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.Flatten(0)), 24),
        lambda: of_mapping(torch.randn(2, 7, 6, dtype=torch.float64)),
    ),
    "transposed": (
        lambda: Heads(nn.ConvTranspose2d(2, 4, 3, 2), 4), lambda: of_mapping(images()),
    ),
    "norms": (
        lambda: Heads(
            nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True),
                          nn.LayerNorm((7, 6))), 4,
        ),
        lambda: of_mapping(images()),
    ),
    "dropout": (
        lambda: Heads(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4), nn.Dropout(0.2)), 4),
        lambda: of_mapping(rows()),
    ),
    "skip connections": (Skips, lambda: of_mapping(rows())),
    "one loss within another": (lambda: Heads(nn.Linear(4, 4), 4), lambda: nested(rows())),
    "channels last": (
        lambda: Heads(nn.Conv2d(2, 4, 3), 4).to(memory_format=torch.channels_last),
        lambda: of_mapping(images().contiguous(memory_format=torch.channels_last)),
    ),
    "linear layers on sequences": (
        lambda: Heads(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4), nn.Flatten()), 12),
        lambda: of_mapping(torch.randn(2, 3, 4, dtype=torch.float64)),
    ),
    "without bias": (lambda: Heads(nn.Linear(4, 4, bias=False), 4), lambda: of_mapping(rows())),
    "frozen bias": (lambda: Heads(frozen_bias(), 4), lambda: of_mapping(rows())),
    "frozen layers": (networks.Frozen, lambda: of_mapping(images(1))),
    "tied weights": (networks.Tied, lambda: of_mapping(torch.arange(5))),
    "reused module": (networks.Reused, lambda: lambda model: squares(*model(x_reused()))),
    "weight used by hand": (lambda: Heads(Functional(), 4), lambda: of_mapping(rows())),
    "attention": (networks.Attention, lambda: of_mapping(torch.randn(2, 4, 8, dtype=torch.float64))),
    "recurrent and parametrised": (networks.Recurrent, lambda: of_mapping(torch.randn(2, 5, 3, dtype=torch.float64))),
    "in-place activation": (lambda: Heads(ReadsAfterWriting(), 4), lambda: of_mapping(rows())),
    "checkpointing": (lambda: Heads(Checkpointed(), 4), lambda: of_mapping(rows())),
    "hook on the output": (lambda: Heads(Doubling(), 4), lambda: of_mapping(rows())),
    "in-place activation on sequences": (
        lambda: Heads(WrittenTo(), 4), lambda: of_mapping(torch.randn(2, 3, 4, dtype=torch.float64)),
    ),
    "an output that nothing depends on": (lambda: Heads(Unheard(), 4), lambda: of_mapping(rows())),
    "a forward in the place of the layer's own": (lambda: Heads(replaced_forward(), 4), lambda: of_mapping(rows())),
    "a hook that computes anew": (
        lambda: Heads(with_hook(lambda layer, x, _: F.linear(x[0] * 2, layer.weight, layer.bias)), 4),
        lambda: of_mapping(rows()),
    ),
    "a hook that reshapes": (
        lambda: Heads(with_hook(lambda *call: call[-1].view(-1, 2, 2)), 4), lambda: of_mapping(rows()),
    ),
    "an operation with an attribute": (lambda: Heads(Remembers(), 4), lambda: of_mapping(rows())),
    "no rows": (
        lambda: Heads(nn.Linear(4, 4), 4), lambda: sums(torch.zeros(0, 4, dtype=torch.float64)),
    ),
    "no images": (
        lambda: Heads(nn.Conv2d(2, 4, 3, groups=2), 4), lambda: sums(torch.zeros(0, 2, 5, 5, dtype=torch.float64)),
    ),
    "no words": (lambda: Heads(Words(2), 4), lambda: sums(torch.zeros(0, 3, dtype=torch.int64))),
    "no features": (
        lambda: Heads(nn.Sequential(no_features(4, 0), no_features(0, 4)), 4), lambda: of_mapping(rows()),
    ),
    "short tokens": (
        lambda: Heads(Words(None), 4), lambda: of_mapping(torch.tensor([[1, 2, 2], [7, 1, 0]], dtype=torch.int32)),
    ),
    "energies and forces": (lambda: Heads(Forces(with_energies=True), 4), lambda: of_mapping(rows())),
    "forces alone": (lambda: Heads(Forces(with_energies=False), 4), lambda: of_mapping(rows())),
    "called with other parameters": (lambda: Heads(Lent(), 4), lambda: of_mapping(rows())),
    "nested tensors": (lambda: Heads(Ragged(), 4), lambda: of_mapping(rows())),
    "sparse input": (lambda: Heads(FromSparse(), 4), lambda: of_mapping(rows())),
    "tasks that do not reach a layer": (OnlyForOne, lambda: of_mapping(rows())),
    "embedding": (
        lambda: Heads(Words(None), 4, 3), lambda: of_mapping(torch.tensor([[1, 2, 2], [7, 1, 0]])),
    ),
    "embedding with padding": (
        lambda: Heads(Words(2), 4, 3), lambda: of_mapping(torch.tensor([[1, 2, 2], [7, 1, 0]])),
    ),
    "a penalty on a weight": (
        lambda: Heads(nn.Linear(4, 4), 4),
        lambda: penalised(rows()),
    ),
}  # fmt: skip


def x_reused() -> torch.Tensor:
    return torch.linspace(-1, 1, 24, dtype=torch.float64).view(6, 4)


def reference(model: nn.Module, losses: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, list]:
    """Gram matrices, reach and gradients by one backward pass after the other, products by dot."""
    layers = discover_layers(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    own = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
    index = {id(p): i for i, p in enumerate(parameters)}
    grams = torch.zeros(len(layers), len(losses), len(losses), dtype=torch.float64)
    reached = torch.zeros(len(layers), len(losses), dtype=torch.bool)
    for number, layer in enumerate(layers):
        for parameter in layer.parameters.values():
            if id(parameter) not in index:
                continue
            for i, one in enumerate(own):
                a = one[index[id(parameter)]]
                reached[number, i] |= a is not None
                for j, two in enumerate(own):
                    b = two[index[id(parameter)]]
                    if a is not None and b is not None:
                        grams[number, i, j] += torch.dot(a.reshape(-1), b.reshape(-1))
    return grams, reached, own


@pytest.fixture(params=["by cost", "always by output", "never by output"])
def preference(request, monkeypatch):
    """Which route is preferred; the result must not depend on it."""
    margins = {"by cost": 0.8, "always by output": float("inf"), "never by output": 0.0}
    monkeypatch.setattr(engine_module, "_MARGIN", margins[request.param])
    return request.param


CUTS = {"in one": (1 << 62, 1 << 62), "at closed cuts": (0, 1 << 62), "wherever it can be cut": (0, 0)}


@pytest.fixture(params=[*CUTS, "with weights that come later"])
def weigh(request, monkeypatch):
    """Runs the engine with its graph cut in one of these ways, and then combines; the result must not depend on it."""
    aim, limit = CUTS.get(request.param, CUTS["at closed cuts"])
    monkeypatch.setattr(engine_module, "_AIM", aim)
    later = request.param not in CUTS

    def run(engine, losses, weights):
        engine._limit = limit
        found = engine.backward(losses, None if later else weights)
        if later:
            engine.combine(weights)
        return found

    return run


@pytest.mark.parametrize("name", CASES)
def test_gram_matrices_and_gradients_are_those_of_autograd(name, preference, weigh):
    torch.manual_seed(2)
    make, make_losses = CASES[name]
    model, compute = make().double(), make_losses()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(3)
    grams, reached, own = reference(model, compute(model))
    engine = GramEngine(model, discover_layers(model))
    for _ in range(2):  # the second time with the memory of the first
        model.load_state_dict(state)
        torch.manual_seed(3)
        with engine.watching():
            losses = compute(model)
        weights = torch.linspace(0.5, 2, len(losses), dtype=torch.float64)
        found = weigh(engine, losses, weights)
        scale = grams.abs().max()
        assert torch.allclose(found.grams, grams, rtol=1e-12, atol=1e-13 * scale)
        assert torch.equal(found.reached, reached)
        for index, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parts = [w * g[index] for w, g in zip(weights, own, strict=True) if g[index] is not None]
            assert (parameter.grad is None) == (not parts)
            if parts:
                total = sum(parts)
                assert torch.allclose(parameter.grad, total, rtol=1e-10, atol=1e-12 * (1 + total.norm()))
                assert parameter.grad.shape == parameter.shape
                assert parameter.grad.stride() == parameter.stride()


IN_FLOAT32: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "residual network": (small_resnet, lambda: torch.randn(2, 1, 20, 20)),
    "perceptron": (lambda: Heads(nn.Sequential(nn.Linear(64, 64), nn.Tanh()), 64, 5), lambda: torch.randn(8, 64)),
    "attention": (networks.Attention, lambda: torch.randn(2, 4, 8)),
    "embedding": (lambda: Heads(Words(None), 4, 3), lambda: torch.tensor([[1, 2, 2], [7, 1, 0]])),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_in_float32_it_differs_from_float32_autograd_by_rounding_alone(name, preference):
    torch.manual_seed(2)
    make, make_input = IN_FLOAT32[name]
    model, x = make(), make_input()
    grams, reached, _ = reference(model, of_mapping(x)(model))
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        losses = of_mapping(x)(model)
    found = engine.backward(losses, torch.ones(len(losses)))
    assert torch.equal(found.reached, reached)
    norms = grams.diagonal(dim1=1, dim2=2).sqrt()
    assert ((found.grams - grams).abs() <= 1e-6 * norms.unsqueeze(1) * norms.unsqueeze(2)).all()


def test_the_shorter_route_is_really_taken(monkeypatch):
    monkeypatch.setattr(engine_module, "_MARGIN", float("inf"))
    taken: dict[str, set[str]] = {}
    for name, (make, make_losses) in CASES.items():
        model = make().double()
        engine = GramEngine(model, discover_layers(model))
        with engine.watching():
            losses = make_losses()(model)
        engine.backward(losses)
        taken[name] = {type(route).__name__ for route in engine._held}
    for name in CASES:
        wanted = "Conv" if "convolution" in name or "padding" in name else "Linear" if "linear" in name else ""
        wanted = "Embedding" if name.startswith("embedding") else wanted
        assert not wanted or f"{wanted}ByOutput" in taken[name], name
    assert "ConvByOutput" in taken["residual network"] & taken["channels last"]
    assert "LinearByOutput" in taken["without bias"] & taken["in-place activation"]
    assert "EmbeddingByOutput" not in taken["tied weights"]


def test_reentrant_checkpointing_is_refused_in_a_sentence():
    model = Heads(nn.Sequential(nn.Linear(4, 4), Checkpointed(reentrant=True)), 4).double()
    with pytest.raises(ReconError, match="reentrant activation checkpointing"):
        GramEngine(model, discover_layers(model)).backward(of_mapping(rows())(model))


class Deep(nn.Module):
    """Blocks with a skip connection each, and what a user may have hung on to them."""

    def __init__(self, blocks: int = 6, width: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.on_features = lambda _: None

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.tanh(block(x))
            self.on_features(x)
        return x


def test_the_hooks_of_tensors_act_once_wherever_the_graph_is_cut(weigh):
    model = Heads(Deep(), 4, 3).double()
    x = rows()
    model.trunk.on_features = lambda features: features.register_hook(lambda gradient: gradient * 1.5 + 0.1)
    grams, _, own = reference(model, of_mapping(x)(model))
    engine = GramEngine(model, discover_layers(model))
    found = weigh(engine, of_mapping(x)(model), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(found.grams, grams, rtol=1e-11)
    assert torch.allclose(model.trunk.blocks[0].weight.grad, sum(gradients[0] for gradients in own), rtol=1e-11)


def test_the_hook_of_a_parameter_sees_its_gradient_as_a_whole(preference, weigh):
    model = Skips().double()
    for layer in (*model.down, *model.up):
        layer.weight = model.down[0].weight
    model.down[0].weight.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
    x = rows()
    grams, _, own = reference(model, of_mapping(x)(model))
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        losses = of_mapping(x)(model)
    found = weigh(engine, losses, torch.ones(3, dtype=torch.float64))
    assert torch.allclose(found.grams, grams, rtol=1e-11)
    assert torch.allclose(model.down[0].weight.grad, sum(gradients[0] for gradients in own), rtol=1e-11)


class Strict(torch.autograd.Function):
    """An operation that knows no gradient that is not there."""

    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 2

    @staticmethod
    def backward(_, gradient):
        return gradient * 2


def test_operations_in_python_are_not_run_without_a_gradient(weigh):
    model = Skips().double()
    for layer in (*model.down, *model.up):
        layer.register_forward_hook(lambda *call: Strict.apply(call[-1]))
    x = rows().requires_grad_()
    grams, _, _ = reference(model, of_mapping(x)(model))
    found = weigh(GramEngine(model, discover_layers(model)), of_mapping(x)(model), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(found.grams, grams, rtol=1e-11)


def test_the_hooks_of_losses_act_once_wherever_the_graph_is_cut(preference, weigh):
    def compute(model):
        losses = of_mapping(x)(model)
        for loss in losses:
            loss.register_hook(lambda gradient: gradient * 2)
        return losses

    # The graph hangs on one edge below the last head, where the other losses have not come in yet.
    model = Heads(nn.Linear(4, 1), 1, 3).double()
    x = rows()
    grams, _, own = reference(model, compute(model))
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        losses = compute(model)
    found = weigh(engine, losses, torch.ones(3, dtype=torch.float64))
    assert torch.allclose(found.grams, grams, rtol=1e-11)
    assert torch.allclose(model.trunk.weight.grad, sum(gradients[0] for gradients in own), rtol=1e-11)


def test_the_hooks_of_a_layers_output_act_whichever_way_the_layer_takes(preference, weigh):
    model = Heads(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)), 4, 3).double()
    x = rows()
    for layer in model.trunk:
        layer.register_forward_hook(lambda *call: call[-1].register_hook(lambda gradient: gradient * 3 + 1) and None)
    grams, _, own = reference(model, of_mapping(x)(model))
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        losses = of_mapping(x)(model)
    found = weigh(engine, losses, torch.ones(3, dtype=torch.float64))
    assert torch.allclose(found.grams, grams, rtol=1e-11)
    for index in range(6):
        gradient = list(model.parameters())[index].grad
        assert torch.allclose(gradient, sum(gradients[index] for gradients in own), rtol=1e-11)


def test_the_hooks_of_modules_act_once_wherever_the_graph_is_cut(weigh):
    model = Heads(Deep(), 4, 3).double()
    # Module hooks warn where no input needs a gradient.
    x = rows().requires_grad_()
    for block in model.trunk.blocks:
        block.register_full_backward_pre_hook(lambda _, gradients: (gradients[0] * 1.5,))
        block.register_full_backward_hook(lambda _, inputs, __: (inputs[0] * 0.5,))
    grams, _, own = reference(model, of_mapping(x)(model))
    engine = GramEngine(model, discover_layers(model))
    found = weigh(engine, of_mapping(x)(model), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(found.grams, grams, rtol=1e-11)
    assert torch.allclose(model.trunk.blocks[0].weight.grad, sum(gradients[0] for gradients in own), rtol=1e-11)


@pytest.mark.parametrize("aim", [0, 1 << 62])
def test_the_graph_is_freed_with_the_last_task_and_heads_with_their_own(aim, monkeypatch):
    monkeypatch.setattr(engine_module, "_AIM", aim)
    model = Heads(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), 4, 3)
    saved = weakref.WeakSet()

    def pack(tensor):
        # What autograd saves is kept alive by the graph alone.
        kept = tensor.detach().clone()
        saved.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        losses = of_mapping(rows().float())(model)
    assert saved
    GramEngine(model, discover_layers(model)).backward(losses, torch.ones(3))
    assert not saved


@pytest.mark.parametrize("tasks", [2, 8])
def test_the_gradients_of_few_blocks_are_held_at_a_time(tasks, monkeypatch):
    monkeypatch.setattr(engine_module, "_AIM", 1)
    blocks, width = 10, 64
    model = Heads(Deep(blocks, width), width, tasks)
    engine = GramEngine(model, discover_layers(model))
    # Without the forward pass being watched, all go by their gradients.
    engine.backward(of_mapping(torch.randn(width, width))(model), torch.ones(tasks))
    held = sum(block.numel() for blocks in engine._memory._blocks.values() for block in blocks)
    one_block = tasks * width * (width + 1)
    assert one_block <= held <= 1.2 * one_block


@pytest.mark.parametrize("how", ["script", "aot_eager"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch._dynamo")
def test_a_node_that_stands_for_many_does_not_make_heads_shared(how):
    model = networks.TwoTasks().double()
    x = images(1)
    grams, reached, own = reference(model, of_mapping(x)(model))
    run = torch.jit.script(model) if how == "script" else torch.compile(model, backend=how)
    network = run if how == "script" else model
    engine = GramEngine(network, discover_layers(network))
    for _ in range(3):  # TorchScript merges operations after some calls
        with engine.watching():
            losses = of_mapping(x)(run)
        found = engine.backward(losses, torch.ones(2, dtype=torch.float64))
        assert torch.allclose(found.grams, grams, rtol=1e-10)
        assert torch.equal(found.reached, reached)
    expected = [sum(g[i] for g in own if g[i] is not None) for i in range(len(own[0]))]
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-10)


def test_memory_does_not_grow_where_nothing_is_combined():
    model = Heads(nn.Linear(64, 64), 64)
    engine = GramEngine(model, discover_layers(model))
    held = []
    for _ in range(4):
        engine.backward(of_mapping(torch.randn(3, 64))(model))
        held.append(sum(block.numel() for blocks in engine._memory._blocks.values() for block in blocks))
    assert held[1] == held[2] == held[3] < 2 * held[0]


def test_running_statistics_are_updated_once():
    model = networks.TwoTasks().double()
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        losses = of_mapping(images(1))(model)
    engine.backward(losses)
    assert model.norm.num_batches_tracked == 1


def test_hooks_are_there_only_while_watching():
    model = networks.TwoTasks()
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        assert model.conv._forward_hooks
    assert not model.conv._forward_hooks


def test_half_precision_autocast_gives_float32_gradients_and_close_products():
    torch.manual_seed(0)
    model = Heads(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4)), 4)
    x = rows().float()
    exact = reference(model, of_mapping(x)(model))[0]
    engine = GramEngine(model, discover_layers(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with engine.watching():
            losses = [loss.float() for loss in of_mapping(x)(model)]
        found = engine.backward(losses)
        engine.combine(torch.ones(2))
    assert torch.allclose(found.grams, exact, rtol=0.1, atol=0.05 * exact.abs().max())
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_accumulated_batches_are_the_callers_own_affair():
    """`combine` sets `.grad`; it does not add to what an earlier batch left there."""
    model = Heads(nn.Linear(4, 4), 4)
    engine = GramEngine(model, discover_layers(model))
    x = rows().float()
    for _ in range(2):
        with engine.watching():
            losses = of_mapping(x)(model)
        engine.backward(losses)
        engine.combine(torch.ones(2))
    expected = torch.autograd.grad(sum(of_mapping(x)(model)), model.trunk.weight)[0]
    assert torch.allclose(model.trunk.weight.grad, expected, rtol=1e-4, atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 5), st.sampled_from([1, 3, 16_384, 32_768, 32_769, 50_000]), st.integers(0, 2**31))
def test_inner_products_are_accurate_whatever_the_length(tasks, columns, seed):
    matrix = torch.randn(tasks, columns, generator=torch.Generator().manual_seed(seed))
    exact = matrix.double() @ matrix.double().T
    found = inner_products(matrix, matrix)
    assert found.dtype == torch.float64
    assert torch.allclose(found, exact, rtol=1e-5, atol=1e-6 * columns)
    assert torch.allclose(inner_products(matrix.double(), matrix.double()), exact, rtol=1e-12)
    half = matrix.bfloat16()
    assert torch.allclose(inner_products(half, half), half.double() @ half.double().T, rtol=1e-5, atol=1e-6 * columns)


def test_long_float32_rows_are_multiplied_nearly_as_in_float64():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(2, 2_400_000, generator=generator)
    exact = matrix.double() @ matrix.double().T
    assert ((inner_products(matrix, matrix) - exact).abs() / exact.diagonal().max()).max() < 1e-6


def test_sparse_and_complex_gradients_count_by_their_values():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(6, 2, sparse=True)
            self.phase = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]))

    model = Odd()
    tokens = torch.tensor([1, 1, 4])
    features = model.table(tokens).sum(0)
    losses = [(features * model.phase.real).sum(), (features.flip(0) * model.phase.imag).sum()]
    own = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
    found = GramEngine(model, discover_layers(model)).backward(losses)
    # Parameters of the root come first.
    phases = torch.stack([torch.view_as_real(g[0]).flatten() for g in own]).double()
    tables = torch.stack([g[1].to_dense().flatten() for g in own]).double()
    assert torch.allclose(found.grams[0], phases @ phases.T)
    assert torch.allclose(found.grams[1], tables @ tables.T)


def test_the_weight_of_a_complex_layer_counts_by_its_values(preference):
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex128), nn.Linear(4, 2, dtype=torch.complex128))
    x = torch.randn(5, 3, dtype=torch.complex128)

    def losses():
        return squares(torch.view_as_real(model(x)), torch.view_as_real(model(x).conj() * 1j))

    own = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses()]
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        watched = losses()
    found = engine.backward(watched, torch.ones(2, dtype=torch.float64))
    for layer in range(2):
        parts = [[torch.view_as_real(part).flatten() for part in g[2 * layer : 2 * layer + 2]] for g in own]
        flat = torch.stack([torch.cat(part) for part in parts])
        assert torch.allclose(found.grams[layer], flat @ flat.T)
    assert torch.allclose(model[0].weight.grad, own[0][0] + own[1][0])


def test_half_precision_does_not_overflow(preference):
    torch.manual_seed(0)
    model = Heads(nn.Linear(1024, 512), 512).half()
    x = (torch.randn(4, 1024) * 20).half()

    def losses(model):
        return [output.pow(2).mean() * 1e-3 for output in (head.float() for head in model(x).values())]

    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        watched = losses(model)
    found = engine.backward(watched, torch.ones(2))
    trunk = list(model.trunk.parameters())
    own = [torch.autograd.grad(loss, trunk, retain_graph=True) for loss in losses(model)]
    flat = torch.stack([torch.cat([part.flatten() for part in gradients]) for gradients in own]).double()
    assert torch.allclose(found.grams[0], flat @ flat.T, rtol=1e-2)


def test_whatever_the_losses_depend_on_gets_its_gradient(preference, weigh):
    """Learned weights of the losses, and inputs, are no parameters of the network."""
    model = Heads(nn.Linear(4, 4), 4).double()
    spread = nn.Parameter(torch.tensor([0.1, 0.2], dtype=torch.float64))
    x = rows().requires_grad_()

    def compute():
        return [loss * torch.exp(-s) + s for loss, s in zip(of_mapping(x)(model), spread, strict=True)]

    expected = torch.autograd.grad(sum(compute()), [spread, x])
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        losses = compute()
    weigh(engine, losses, torch.ones(2, dtype=torch.float64))
    assert torch.allclose(spread.grad, expected[0])
    assert torch.allclose(x.grad, expected[1])


def test_a_parameter_that_is_unfrozen_later_gets_its_gradient():
    model = Heads(nn.Linear(4, 4), 4)
    model.trunk.requires_grad_(False)
    engine = GramEngine(model, discover_layers(model))
    model.trunk.requires_grad_(True)
    x = rows().float()
    engine.backward(of_mapping(x)(model), torch.ones(2))
    expected = torch.autograd.grad(sum(of_mapping(x)(model)), model.trunk.weight)[0]
    assert torch.allclose(model.trunk.weight.grad, expected, rtol=1e-4, atol=1e-6)


def test_optimizers_that_make_their_step_within_the_backward_pass_train_as_always(preference, weigh):
    def train(backward):
        torch.manual_seed(0)
        model = Heads(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), 4).double()
        optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}

        def step(parameter):
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(step)
        engine = GramEngine(model, discover_layers(model))
        for _ in range(3):
            with engine.watching():
                losses = of_mapping(rows())(model)
            backward(engine, losses)
        return model

    profiled = train(lambda engine, losses: weigh(engine, losses, torch.ones(2, dtype=torch.float64)))
    plain = train(lambda _, losses: sum(losses).backward())
    for one, other in zip(profiled.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-10)


def test_optimizers_of_sparse_gradients_train_as_always(weigh):
    def train(backward):
        torch.manual_seed(0)
        model = Heads(nn.EmbeddingBag(9, 4, sparse=True), 4).double()
        optimizer = torch.optim.SparseAdam(model.trunk.parameters(), lr=0.1)
        engine = GramEngine(model, discover_layers(model))
        for tokens in ([[1, 2, 2]], [[7, 1, 0]], [[2, 2, 8]]):
            optimizer.zero_grad()
            backward(engine, of_mapping(torch.tensor(tokens))(model))
            optimizer.step()
        return model.trunk.weight

    profiled = train(lambda engine, losses: weigh(engine, losses, torch.ones(2, dtype=torch.float64)))
    plain = train(lambda _, losses: sum(losses).backward())
    assert torch.allclose(profiled, plain, rtol=1e-10)


def test_gradients_add_up_whether_they_are_sparse_or_not():
    model = Heads(nn.EmbeddingBag(9, 4, sparse=True), 4)
    weight = model.trunk.weight
    losses = of_mapping(torch.tensor([[1, 2, 2]]))
    engine = GramEngine(model, discover_layers(model))
    engine.backward(losses(model), torch.ones(2))
    once = weight.grad.to_dense()
    engine.backward(losses(model), torch.ones(2), accumulate=True)
    assert weight.grad.is_sparse
    assert torch.allclose(weight.grad.to_dense(), 2 * once)
    engine.backward([loss + weight.sum() for loss in losses(model)], torch.ones(2), accumulate=True)
    assert torch.allclose(weight.grad.to_dense(), 3 * once + 2)


def test_networks_are_copied_and_pickled_while_they_are_watched():
    model = networks.TwoTasks()
    engine = GramEngine(model, discover_layers(model))
    with engine.watching():
        losses = of_mapping(images(1).float())(model)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for one in copies:
            assert one(images(1).float()).keys() == model.heads.keys()
    engine.backward(losses, torch.ones(2))
