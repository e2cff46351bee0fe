"""Feature Disentanglement and the gradients of shared representations, against numpy and autograd in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from recon_cli.errors import ReconError
from recon_cli.gradients import disentanglement
from recon_cli.gradients import engine as engine_module
from recon_cli.gradients.disentanglement import saliency_entropy
from recon_cli.gradients.engine import GramEngine
from recon_cli.gradients.surrogate import GradientSurrogate
from recon_cli.layers.discovery import discover_layers
from tests.gradients.test_engine import CUTS, Checkpointed, squares


def entropy(gradients: np.ndarray) -> tuple[float, int, int]:
    """The mean entropy, the positions it is the mean of, and those where all gradients are 0, one after the other."""
    saliency = np.abs(gradients.astype(np.float64))
    found, silent = [], 0
    for column in saliency.T:
        if column.sum() == 0:
            silent += 1
            continue
        shares = column / column.sum()
        found.append(-sum(share * math.log(share) for share in shares if share > 0))
    return (float(np.mean(found)) if found else math.nan), len(found), silent


def fd(gradients: torch.Tensor) -> float:
    found = saliency_entropy(gradients)
    return float(found.total / found.positions)


matrices = st.integers(1, 5).flatmap(
    lambda tasks: st.lists(
        st.lists(st.one_of(st.just(0.0), st.floats(-1e6, 1e6)), min_size=tasks, max_size=tasks), min_size=1, max_size=8
    )
)


@settings(deadline=None)
@given(matrices, st.floats(1e-100, 1e100), st.randoms(use_true_random=False))
def test_fd_is_an_entropy(columns, factor, random):
    gradients = torch.tensor(columns, dtype=torch.float64).T
    tasks = len(gradients)
    expected, positions, silent = entropy(gradients.numpy())
    found = saliency_entropy(gradients)
    assert (int(found.positions), int(found.silent)) == (positions, silent)
    if positions == 0:
        assert float(found.total) == 0
        return
    assert fd(gradients) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert -1e-12 <= fd(gradients) <= math.log(tasks) + 1e-12
    order = random.sample(range(tasks), tasks)
    assert fd(gradients[order]) == pytest.approx(fd(gradients), rel=1e-9, abs=1e-12)
    if not ((gradients * factor == 0) & (gradients != 0)).any():
        assert fd(gradients * factor) == pytest.approx(fd(gradients), rel=1e-6, abs=1e-9)


def test_fd_is_0_for_tasks_with_features_of_their_own_and_ln_t_for_equal_ones():
    assert fd(torch.eye(3)) == 0
    assert fd(torch.tensor([[1.0, -2.0], [-1.0, 2.0], [1.0, 2.0]])) == pytest.approx(math.log(3))


@pytest.mark.parametrize("factor", [1e-320, 1e-300, 1e307])
def test_neither_tiny_nor_huge_gradients_vanish_from_fd(factor):
    gradients = torch.tensor([[1.0, 4.0], [2.0, 4.0], [4.0, 4.0]], dtype=torch.float64)
    assert fd(gradients * factor) == pytest.approx(fd(gradients), rel=1e-3)


def test_long_rows_are_taken_in_pieces(monkeypatch):
    gradients = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    gradients[:, ::7] = 0
    monkeypatch.setattr(disentanglement, "_COLUMNS", 64)
    found = saliency_entropy(gradients)
    expected, positions, silent = entropy(gradients.numpy())
    assert (int(found.positions), int(found.silent)) == (positions, silent)
    assert float(found.total) / positions == pytest.approx(expected, rel=1e-6)
    assert fd(gradients.bfloat16()) == pytest.approx(expected, rel=1e-2)


def test_gradients_that_are_not_finite_give_no_finite_entropy():
    for value in (math.nan, math.inf):
        assert not saliency_entropy(torch.tensor([[1.0, value], [1.0, 2.0]])).total.isfinite()


class Net(nn.Module):
    """A trunk, what makes the representation, and what each task does with it."""

    def __init__(self, pool: nn.Module, *, inplace: bool = False, tasks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh())
        self.pool = pool
        self.act = nn.ReLU(inplace=inplace)
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(tasks))
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        z = self.pool(self.stem(x).mean((2, 3)))
        # In the reference, the values before anything is written over them.
        self.seen.append(z)
        z = self.act(z)
        return {str(i): head(z) for i, head in enumerate(self.heads)}


class Meeting(Net):
    """The tasks part at the representation itself."""

    def forward(self, x):
        z = self.pool(self.stem(x).mean((2, 3)))
        self.seen.append(z)
        return {str(i): head(z) for i, head in enumerate(self.heads)}


class Detaching(Net):
    """The last task does not reach the representation."""

    def forward(self, x):
        z = self.pool(self.stem(x).mean((2, 3)))
        self.seen.append(z)
        return {str(i): head(z.detach() if i == len(self.heads) - 1 else z.tanh()) for i, head in enumerate(self.heads)}


class Skipping(Net):
    """The representation is deep in the trunk, with another way around it."""

    def forward(self, x):
        x = self.stem(x).mean((2, 3))
        z = self.pool(x)
        self.seen.append(z)
        x = torch.tanh(z) + x
        return {str(i): head(x) for i, head in enumerate(self.heads)}


class First(Net):
    """One task's loss needs the representation only; the others' go on through shared layers."""

    def __init__(self, pool):
        super().__init__(pool)
        self.neck = nn.Linear(4, 4)

    def forward(self, x):
        z = self.pool(self.stem(x).mean((2, 3)))
        self.seen.append(z)
        y = torch.tanh(self.neck(z))
        return {str(i): head(z if i == 0 else y) for i, head in enumerate(self.heads)}


class Views(nn.Module):
    """A module whose output is a view of something else."""

    def forward(self, x):
        return x.view(len(x), 2, -1).view(len(x), -1)


NETS = {
    "linear": lambda: Net(nn.Linear(4, 4)),
    "where the tasks meet": lambda: Meeting(nn.Linear(4, 4)),
    "in-place activation": lambda: Net(nn.Linear(4, 4), inplace=True),
    "in-place activation itself": lambda: Net(nn.ReLU(inplace=True)),
    "view": lambda: Net(Views()),
    "a task that does not reach": lambda: Detaching(nn.Linear(4, 4)),
    "a way around": lambda: Skipping(nn.Linear(4, 4)),
    "a neck behind": lambda: First(nn.Linear(4, 4)),
    "checkpointing": lambda: Net(Checkpointed()),
    "two tasks": lambda: Net(nn.Linear(4, 4), tasks=2),
}


def make(name: str) -> tuple[Net, torch.Tensor]:
    torch.manual_seed(1)
    return NETS[name]().double(), torch.randn(5, 1, 5, 4, dtype=torch.float64)


def compute(model: Net, x: torch.Tensor) -> list[torch.Tensor]:
    return squares(*model(x).values())


def feature_gradients(name: str) -> list[torch.Tensor | None]:
    """dL_i/dZ by autograd alone, on a network that writes nothing in place."""
    model, x = make(name)
    model.act.inplace = False
    losses = compute(model, x)
    return [torch.autograd.grad(loss, model.seen[-1], retain_graph=True, allow_unused=True)[0] for loss in losses]


def stacked(gradients: list[torch.Tensor | None]) -> torch.Tensor:
    size = next(g.numel() for g in gradients if g is not None)
    return torch.stack([torch.zeros(size).double() if g is None else g.flatten() for g in gradients])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("cut", [*CUTS, "later"])
def test_feature_gradients_are_those_of_autograd_wherever_the_graph_is_cut(name, cut, monkeypatch):
    gradients = feature_gradients(name)
    rows = stacked(gradients)
    aim, limit = CUTS.get(cut, CUTS["in one"])
    monkeypatch.setattr(engine_module, "_AIM", aim)
    model, x = make(name)
    plain, _ = make(name)
    engine = GramEngine(model, discover_layers(model), limit, features=["pool"])
    for _ in range(2):
        model.seen.clear()
        with engine.watching():
            losses = compute(model, x)
        weights = torch.linspace(0.5, 2, len(losses), dtype=torch.float64)
        found = engine.backward(losses, None if cut == "later" else weights)
        if cut == "later":
            engine.combine(weights)
        features = found.features
        assert features.grams.dtype == torch.float64
        assert torch.allclose(features.grams[0], rows @ rows.T, rtol=1e-12, atol=1e-15)
        assert features.reached[0].tolist() == [gradient is not None for gradient in gradients]
        expected, positions, silent = entropy(rows.numpy())
        assert float(features.entropies.total[0]) / positions == pytest.approx(expected, rel=1e-12)
        assert (int(features.entropies.positions[0]), int(features.entropies.silent[0])) == (positions, silent)
    # The layers' gradients are what they are without features.
    losses = compute(plain, x)
    sum(w * loss for w, loss in zip(weights, losses, strict=True)).backward()
    for one, two in zip(plain.parameters(), model.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        assert one.grad is None or torch.allclose(one.grad, two.grad, rtol=1e-10, atol=1e-13)


def test_silent_positions_are_those_that_the_activation_cuts_off():
    rows = stacked(feature_gradients("in-place activation"))
    assert entropy(rows.numpy())[2] > 0


def test_several_features_are_measured_in_one_step_and_in_the_order_of_their_names():
    model, x = make("linear")
    engine = GramEngine(model, discover_layers(model), features=["act", "pool", "stem.0"])
    with engine.watching():
        losses = compute(model, x)
    grams = engine.backward(losses, torch.ones(3)).features.grams
    model.seen.clear()
    losses = compute(model, x)
    rows = stacked([torch.autograd.grad(loss, model.seen[0], retain_graph=True)[0] for loss in losses])
    assert torch.allclose(grams[1], rows @ rows.T, rtol=1e-12)
    # The activation only takes away from the gradients.
    assert (grams[0].diagonal() >= grams[1].diagonal()).all()
    assert (grams[2].diagonal() > 0).all()


def test_bf16_autocast_gives_close_feature_gradients():
    rows = stacked(feature_gradients("linear"))
    model, x = make("linear")
    model, x = model.float(), x.float()
    engine = GramEngine(model, discover_layers(model), features=["pool"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with engine.watching():
            losses = [loss.float() for loss in compute(model, x)]
        assert model.seen[0].dtype == torch.bfloat16
        found = engine.backward(losses, torch.ones(3)).features
    expected = rows @ rows.T
    assert torch.allclose(found.grams[0], expected, rtol=0.05, atol=0.02 * expected.abs().max())
    total, positions, _ = entropy(rows.numpy())
    assert float(found.entropies.total[0] / found.entropies.positions[0]) == pytest.approx(total, rel=0.1)
    assert positions == int(found.entropies.positions[0])


class Twice(Net):
    def forward(self, x):
        x = self.stem(x).mean((2, 3))
        z = self.pool(self.pool(x))
        return {str(i): head(z) for i, head in enumerate(self.heads)}


class ViewWrittenTo(Net):
    def forward(self, x):
        z = F.relu_(self.pool(self.stem(x).mean((2, 3))))
        return {str(i): head(z) for i, head in enumerate(self.heads)}


class Hooked(Net):
    def forward(self, x):
        z = self.pool(self.stem(x).mean((2, 3)))
        z.register_hook(lambda gradient: gradient / 2)
        return {str(i): head(z) for i, head in enumerate(self.heads)}


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Paired(Net):
    def forward(self, x):
        z = self.pool(self.stem(x).mean((2, 3)))[0]
        return {str(i): head(z) for i, head in enumerate(self.heads)}


REFUSED = {
    "called twice": (lambda: Twice(nn.Linear(4, 4)), "the losses reach 2 outputs of module `pool`"),
    "a view that is written to": (lambda: ViewWrittenTo(Views()), "a view that is written to in place"),
    "a hook on the gradient": (lambda: Hooked(nn.Linear(4, 4)), "is changed by a hook"),
    "a tuple": (lambda: Paired(Pair()), "returns a `tuple`"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("user", [lambda model: GramEngine(model, [], features=["pool"]),
                                  lambda model: GradientSurrogate(model, "pool")])  # fmt: skip
def test_what_is_no_single_representation_is_refused_in_a_sentence(name, user):
    make_net, message = REFUSED[name]
    model = make_net()
    engine = user(model)
    with pytest.raises(ReconError, match=message):
        with engine.watching():
            losses = squares(*model(torch.randn(5, 1, 5, 4)).values())
        engine.backward(losses)


def test_a_module_that_is_not_there_is_refused_with_the_nearest_name():
    model = Net(nn.Linear(4, 4))
    with pytest.raises(ReconError, match="no module `pol`") as caught:
        GramEngine(model, discover_layers(model), features=["pol"])
    assert caught.value.hint == "did you mean `pool`?"
    with pytest.raises(ReconError, match="named twice"):
        GramEngine(model, discover_layers(model), features=["pool", "pool"])


def test_other_forward_passes_disturb_nothing():
    rows = stacked(feature_gradients("linear"))
    model, x = make("linear")
    engine = GramEngine(model, discover_layers(model), features=["pool"])
    with engine.watching():
        losses = compute(model, x)
        compute(model, x * 2)
        with torch.no_grad():
            compute(model, x * 3)
    assert torch.allclose(engine.backward(losses, torch.ones(3)).features.grams[0], rows @ rows.T, rtol=1e-12)
