"""`ConflictProfiler` in loops that train under DistributedDataParallel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from recon_cli.errors import ReconError
from recon_cli.profiling.profiler import ConflictProfiler
from tests.conftest import read_scores
from tests.profiling.test_ranks import data, losses_of, make_network
from tests.ranks import run_on_ranks

TASKS = ["a", "b", "c"]
STEPS = 6
WAYS = ["plain", "find unused", "inner module", "accumulating", "partial labels"]


def train_in_parallel(rank: int, size: int, folder: str) -> None:
    """What each rank does: a user's loop, in all ways; it keeps the weights and the scores."""
    found = {}
    for way in WAYS:
        network = make_network()
        parallel = DistributedDataParallel(network, find_unused_parameters=way == "find unused")
        given = network if way == "inner module" else parallel
        profiler = ConflictProfiler(given, TASKS, every=2, steps=STEPS)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for step in range(STEPS):
            losses = dict(zip(TASKS, losses_of(parallel, step, rank, partial=False), strict=True))
            if way == "partial labels" and step % 2 == 0 and rank == 0:
                losses["b"] = None
            if way != "accumulating" or step % 3 == 0:
                optimizer.zero_grad()
            profiler.backward(losses)
            if way != "accumulating" or step % 3 == 2:
                optimizer.step()
        found[way] = [parameter.detach() for parameter in network.parameters()]
        profiler.write(Path(folder) / f"{way}-{rank}.json")
    with pytest.raises(ReconError, match="on rank 1: the loss of task `b` became inf"):
        profiler = ConflictProfiler(network, TASKS, every=1)
        one, two, three = network(data(0, rank)[0])
        profiler.backward({"a": one.mean(), "b": two.pow(2).mean() / (0 if rank == 1 else 1), "c": three.mean()})
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    run_on_ranks(train_in_parallel, 2, folder)
    return folder


def train_alone(way: str, folder: Path) -> list[torch.Tensor]:
    """The same loop in one process, on the batches of both ranks together."""
    network = make_network()
    profiler = ConflictProfiler(network, TASKS, every=2, steps=STEPS)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(STEPS):
        parts = [data(step, rank) for rank in range(2)]
        outputs = network(torch.cat([tokens for tokens, _ in parts]))
        labels = torch.cat([labels for _, labels in parts], dim=1)
        losses = {task: F.cross_entropy(outputs[i], labels[i]) for i, task in enumerate(TASKS)}
        if way == "partial labels" and step % 2 == 0:
            losses["b"] = F.cross_entropy(outputs[1][len(outputs[1]) // 2 :], labels[1][len(labels[1]) // 2 :])
        if way != "accumulating" or step % 3 == 0:
            optimizer.zero_grad()
        profiler.backward(losses)
        if way != "accumulating" or step % 3 == 2:
            optimizer.step()
    profiler.write(folder / f"{way}.json")
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize("way", WAYS)
def test_ranks_train_and_count_as_one_process_with_their_batches_does(folder, way, tmp_path):
    expected = train_alone(way, tmp_path)
    for rank in range(2):
        for mine, theirs in zip(torch.load(folder / f"{rank}.pt")[way], expected, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    ranks = [(folder / f"{way}-{rank}.json").read_bytes() for rank in range(2)]
    assert ranks[0] == ranks[1]
    # Sums over the ranks are rounded in another order, which no count notices here.
    one, two = read_scores(folder / f"{way}-0.json"), read_scores(tmp_path / f"{way}.json")
    assert [(layer.name, [s.conflicts for s in layer.stages]) for layer in one.layers] == [
        (layer.name, [s.conflicts for s in layer.stages]) for layer in two.layers
    ]


def test_a_sharded_network_is_refused_in_a_sentence():
    network = nn.ModuleDict({"trunk": nn.Linear(2, 2), "a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    network["trunk"].weight.device_mesh = "as that of a sharded parameter"
    profiler = ConflictProfiler(network, ["a", "b"], every=1)
    x = network["trunk"](torch.ones(1, 2))
    with pytest.raises(ReconError, match="sharded over several devices"):
        profiler.backward({task: network[task](x).sum() for task in ("a", "b")})
