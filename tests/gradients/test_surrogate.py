"""The fast gradient surrogate against autograd in float64."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from recon_cli.errors import ReconError
from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients.surrogate import GradientSurrogate
from tests.gradients.test_engine import Checkpointed, squares
from tests.gradients.test_features import NETS, Net, compute, feature_gradients, make, stacked

# A way around the representation is refused, see below.
NAMES = [name for name in NETS if name != "a way around"]


def gradients_of(model: Net, x: torch.Tensor) -> list[dict[str, torch.Tensor | None]]:
    """Every task's own gradients, by one backward pass after the other."""
    losses = compute(model, x)
    parameters = dict(model.named_parameters())
    return [
        dict(
            zip(
                parameters,
                torch.autograd.grad(loss, [*parameters.values()], retain_graph=True, allow_unused=True),
                strict=True,
            )
        )
        for loss in losses
    ]


def expected_gradients(own: list[dict[str, torch.Tensor | None]], weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """sum_i w_i g_i, but a gradient that one task alone has is its own."""
    expected = {}
    for name in own[0]:
        parts = [(w, g[name]) for w, g in zip(weights, own, strict=True) if g[name] is not None]
        if name.startswith("heads"):
            assert len(parts) == 1
            expected[name] = parts[0][1]
        elif parts:
            expected[name] = sum(w * g for w, g in parts)
    return expected


@pytest.mark.parametrize("name", NAMES)
def test_the_gram_matrix_and_the_gradients_are_those_of_autograd(name):
    rows = stacked(feature_gradients(name))
    model, x = make(name)
    own = gradients_of(model, x)
    weights = torch.linspace(-0.5, 2, len(own), dtype=torch.float64)
    expected = expected_gradients(own, weights)
    surrogate = GradientSurrogate(model, "pool")
    for _ in range(2):  # the second time with the memory of the first, in place of its gradients
        with surrogate.watching():
            losses = compute(model, x)
        gram = surrogate.backward(losses)
        assert gram.dtype == torch.float64
        assert torch.allclose(gram, rows @ rows.T, rtol=1e-12, atol=1e-15)
        surrogate.combine(weights)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name in expected:
                assert torch.allclose(parameter.grad, expected[parameter_name], rtol=1e-12, atol=1e-13)
            else:
                assert parameter.grad is None


def test_gradients_are_added_to_those_that_are_there_if_asked():
    model, x = make("linear")
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    expected = expected_gradients(gradients_of(model, x), weights)
    surrogate = GradientSurrogate(model, "pool")
    for _ in range(2):
        with surrogate.watching():
            losses = compute(model, x)
        surrogate.backward(losses)
        surrogate.combine(weights, accumulate=True)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, 2 * expected[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("tasks", [2, 3])
def test_the_trunk_is_run_through_once(tasks):
    model, x = make("two tasks" if tasks == 2 else "linear")
    passes = []
    model.stem.register_full_backward_pre_hook(lambda *_: passes.append("trunk"))
    surrogate = GradientSurrogate(model, "pool")
    x.requires_grad_()  # module hooks warn where no input needs a gradient
    with surrogate.watching():
        losses = compute(model, x)
    surrogate.backward(losses)
    assert passes == []
    surrogate.combine(torch.ones(tasks, dtype=torch.float64))
    assert passes == ["trunk"]


def test_heads_and_trunk_are_freed():
    model, x = make("linear")
    saved: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

    def pack(tensor):
        kept = tensor.detach().clone()
        saved.add(kept)
        return kept

    surrogate = GradientSurrogate(model, "act")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept), surrogate.watching():
        losses = compute(model, x)
    before = len(saved)
    surrogate.backward(losses)
    assert 0 < len(saved) < before
    surrogate.combine(torch.ones(3, dtype=torch.float64))
    assert not saved
    assert losses


def test_bf16_autocast_gives_float32_gradients_close_to_the_exact_ones():
    model, x = make("linear")
    weights = torch.tensor([0.2, 0.3, 0.5])
    expected = expected_gradients(gradients_of(model, x), weights.double())
    model, x = model.float(), x.float()
    surrogate = GradientSurrogate(model, "pool")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with surrogate.watching():
            losses = [loss.float() for loss in compute(model, x)]
        surrogate.backward(losses)
        surrogate.combine(weights)
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        exact = expected[name].float()
        assert torch.allclose(parameter.grad, exact, rtol=0.1, atol=0.03 * exact.abs().max())


class TiedHead(Net):
    """A head uses a weight of the trunk."""

    def forward(self, x):
        outputs = super().forward(x)
        outputs["0"] = outputs["0"] + self.stem[0].bias.sum()
        return outputs


class Sideways(Net):
    """A part of the trunk that does not lie behind the representation, shared by two heads."""

    def __init__(self, pool):
        super().__init__(pool)
        self.side = nn.Linear(20, 2)

    def forward(self, x):
        side = self.side(x.flatten(1))
        outputs = super().forward(x)
        return {task: output + side if task != "0" else output for task, output in outputs.items()}


@pytest.mark.parametrize(
    ("make_net", "names"),
    [(NETS["a way around"], "`stem.0.weight`, `stem.0.bias`"), (lambda: TiedHead(nn.Linear(4, 4)), "`stem.0.bias`")],
)
def test_gradients_that_would_be_lost_around_the_representation_are_refused(make_net, names):
    model = make_net()
    surrogate = GradientSurrogate(model, "pool")
    with surrogate.watching():
        losses = compute(model, torch.randn(5, 1, 5, 4))
    with pytest.raises(ReconError, match=f"reach {names} not only through the output of module `pool`"):
        surrogate.backward(losses)


def test_a_penalty_on_the_trunk_is_refused():
    model = Net(nn.Linear(4, 4))
    surrogate = GradientSurrogate(model, "pool")
    with surrogate.watching():
        first, *others = compute(model, torch.randn(5, 1, 5, 4))
    with pytest.raises(ReconError, match="`stem.0.weight` not only"):
        surrogate.backward([first + model.stem[0].weight.square().sum(), *others])


def test_shared_parameters_beside_the_representation_get_their_weighted_gradients():
    torch.manual_seed(0)
    model, x = Sideways(nn.Linear(4, 4)).double(), torch.randn(5, 1, 5, 4, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    expected = expected_gradients(gradients_of(model, x), weights)
    surrogate = GradientSurrogate(model, "pool")
    with surrogate.watching():
        losses = compute(model, x)
    surrogate.backward(losses)
    surrogate.combine(weights)
    assert torch.allclose(model.side.weight.grad, expected["side.weight"], rtol=1e-12)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-12, atol=1e-13), name


def test_what_cannot_be_done_is_said_in_a_sentence():
    model = Net(nn.Linear(4, 4))
    x = torch.randn(5, 1, 5, 4)
    surrogate = GradientSurrogate(model, "pool")
    with pytest.raises(ReconError, match="no loss reaches an output of module `pool`"):
        surrogate.backward(squares(*model(x).values()))  # not watched
    with pytest.raises(ReconError, match="no gradients to combine"):
        surrogate.combine(torch.ones(3))
    with pytest.raises(ReconError, match="no module `trunk`"):
        GradientSurrogate(model, "trunk")
    model = Net(Checkpointed(reentrant=True))
    surrogate = GradientSurrogate(model, "pool")
    with surrogate.watching():
        losses = squares(*model(x).values())
    with pytest.raises(ReconError, match="reentrant"):
        surrogate.backward(losses)


def test_one_of_several_ranks_is_refused(monkeypatch):
    monkeypatch.setattr(Ranks, "current", lambda: Ranks(size=2, rank=0))
    model = Net(nn.Linear(4, 4))
    surrogate = GradientSurrogate(model, "pool")
    with surrogate.watching():
        losses = squares(*model(torch.randn(5, 1, 5, 4)).values())
    with pytest.raises(ReconError, match="one process alone"):
        surrogate.backward(losses)
