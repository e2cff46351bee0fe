"""Several ranks against one process with all their batches together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

from recon_cli.experiment.ranks import Ranks
from recon_cli.gradients import engine as engine_module
from recon_cli.gradients.engine import GramEngine
from recon_cli.layers.discovery import discover_layers
from tests.ranks import run_on_ranks

ROWS = 4
"""Rows of the batch of one rank."""
STEPS = 4
TASKS = 3

# Which tasks a rank has no labels for, by step and rank.
ABSENT: dict[tuple[int, int], set[int]] = {(1, 0): {1}, (2, 0): {0, 2}, (2, 1): {0}, (3, 1): {0, 1, 2}}


class Network(nn.Module):
    """An embedding that is tied to a head, a trunk, a layer of two tasks alone, and two private heads."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.trunk = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.LayerNorm(8))
        self.some = nn.Linear(8, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def forward(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        x = self.trunk(self.table(tokens))
        some = self.some(x)
        return [F.linear(x, self.table.weight), self.heads[0](some), self.heads[1](some)]


def make_network() -> Network:
    torch.manual_seed(5)
    return Network().double()


def data(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One rank's tokens [N] and labels [T, N]."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randint(7, (ROWS,), generator=generator), torch.randint(3, (TASKS, ROWS), generator=generator)


def losses_of(network: Network, step: int, rank: int, partial: bool) -> list[torch.Tensor | None]:
    tokens, labels = data(step, rank)
    absent = ABSENT.get((step, rank), set()) if partial else set()
    return [
        None if task in absent else F.cross_entropy(output, labels[task]) for task, output in enumerate(network(tokens))
    ]


def train_on_ranks(rank: int, size: int, folder: str) -> None:
    """What each rank does: it trains by the engine, in all variants, and keeps what it found."""
    found: dict[str, list[torch.Tensor]] = {}
    for partial in (False, True):
        for aim in (0, 1 << 62):
            engine_module._AIM = aim
            network = make_network()
            engine = GramEngine(network, discover_layers(network), features=["trunk"])
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            grams = []
            for step in range(STEPS):
                with engine.watching():
                    losses = losses_of(network, step, rank, partial)
                result = engine.backward(losses, torch.full((TASKS,), 1 / TASKS, dtype=torch.float64))
                optimizer.step()
                features = result.features
                fd = features.entropies.total / features.entropies.positions
                grams += [result.grams, result.reached, features.grams, features.reached, fd]
            found[f"{partial}-{aim}"] = [*grams, *(p.detach() for p in network.parameters())]
    torch.save(found, Path(folder) / f"{rank}.pt")


def train_alone(size: int, partial: bool) -> list[torch.Tensor]:
    """The same in one process: each task's loss is the mean over the ranks that have it."""
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    layers = discover_layers(network)
    found = []
    for step in range(STEPS):
        representations: list[torch.Tensor] = []
        hook = network.trunk.register_forward_hook(lambda *call, kept=representations: kept.append(call[-1]))
        by_rank = [losses_of(network, step, rank, partial) for rank in range(size)]
        hook.remove()
        losses = []
        for task in range(TASKS):
            there = [row[task] for row in by_rank if row[task] is not None]
            losses.append(sum(there) / len(there) if there else None)
        grams = torch.zeros(len(layers), TASKS, TASKS, dtype=torch.float64)
        reached = torch.zeros(len(layers), TASKS, dtype=torch.bool)
        for number, layer in enumerate(layers):
            own = list(layer.parameters.values())
            rows: list[torch.Tensor | None] = []
            for loss in losses:
                parts = loss and torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
                is_reached = parts is not None and any(part is not None for part in parts)
                rows.append(
                    torch.cat([torch.zeros(p.numel()).double() if g is None else g.flatten()
                               for p, g in zip(own, parts, strict=True)]) if is_reached else None
                )  # fmt: skip
            for i, one in enumerate(rows):
                reached[number, i] = one is not None
                for j, two in enumerate(rows):
                    if one is not None and two is not None:
                        grams[number, i, j] = one @ two
        found += [grams, reached, *of_features(losses, representations)]
        optimizer.zero_grad()
        (sum(loss for loss in losses if loss is not None) / TASKS).backward()
        optimizer.step()
    return [*found, *(p.detach() for p in network.parameters())]


def of_features(losses: list[torch.Tensor | None], parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """The Gram matrix of dL_i/dZ, which tasks reach Z, and FD, for Z in parts, one for each rank."""
    own = [
        [torch.zeros_like(part) for part in parts]
        if loss is None
        else torch.autograd.grad(loss, parts, retain_graph=True, materialize_grads=True)
        for loss in losses
    ]
    rows = torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in own])
    shares = rows.abs() / rows.abs().sum(0)
    shares = shares[:, shares.isfinite().all(0)]
    fd = torch.special.entr(shares).sum(0).mean()
    return [(rows @ rows.T).unsqueeze(0), torch.tensor([[loss is not None for loss in losses]]), fd.unsqueeze(0)]


@pytest.fixture(scope="module", params=[2, 3])
def trained(request, tmp_path_factory):
    """What every rank found, for two and for three ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    run_on_ranks(train_on_ranks, request.param, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("partial", [False, True], ids=["all labels", "partial labels"])
@pytest.mark.parametrize("aim", [0, 1 << 62], ids=["in slices", "in one"])
def test_ranks_find_what_one_process_finds_in_all_batches_together(trained, partial, aim):
    expected = train_alone(len(trained), partial)
    for rank in trained:
        for mine, theirs in zip(rank[f"{partial}-{aim}"], expected, strict=True):
            if mine.dtype == torch.bool:
                assert torch.equal(mine, theirs)
            else:
                assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-13)


def test_a_process_by_itself_is_the_only_rank():
    alone = Ranks.current()
    assert not distributed.is_initialized()
    assert (alone.size, alone.rank) == (1, 0)
    tensor = torch.ones(2)
    alone.sum([tensor])
    assert torch.equal(tensor, torch.ones(2))
    assert alone.highest(7) == 7
    assert alone.share("a") == ["a"]
