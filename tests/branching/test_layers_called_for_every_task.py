"""Layers that one forward pass calls once for every task, as MTAN does: each copy sees the streams of its own tasks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import recon_cli
from recon_cli.artifacts.manifest import Branch, SplitLayer, SplitStatistics
from recon_cli.branching.plan import BranchingPlan, plan_branching
from recon_cli.zoo import mtan

TASKS = ("a", "b", "c")
MOVED = ("running_mean", "running_var", "num_batches_tracked")

each_engine = pytest.mark.parametrize("engine", ["graph", "calls", "passes"])


class Attending(nn.Module):
    """A trunk, and for every task a gate, the block that all of them share, and a head.

    :param overwrites: whether what the block has read is written over.
    :ivar only: the tasks that are computed: all of them in the network that is branched.
    """

    def __init__(self, head: Callable[[], nn.Module], *, overwrites: bool = False) -> None:
        super().__init__()
        self.only = TASKS
        self.overwrites = overwrites
        self.trunk = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.gates = nn.ModuleDict({task: nn.Linear(4, 4) for task in TASKS})
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.heads = nn.ModuleDict({task: head() for task in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.trunk(x)
        return {task: self.heads[task](self.block(self.gates[task](x))) for task in self.only}

    def block(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        normed = self.norm(x)
        if self.overwrites:
            x.zero_()
        return normed


def linear() -> nn.Module:
    return nn.Linear(4, 2)


def network(head: Callable[[], nn.Module] = linear, *, overwrites: bool = False) -> Attending:
    torch.manual_seed(0)
    return Attending(head, overwrites=overwrites).double().train()


def branches(groups: str) -> tuple[Branch, ...]:
    return tuple(Branch(id=group[0], tasks=tuple(group)) for group in groups.split())


def plan_of(model: nn.Module, groups: str, *layers: str, statistics: bool = False) -> BranchingPlan:
    own = [SplitStatistics(name="norm", branches=branches(groups), buffers=tuple(f"norm.{name}" for name in MOVED))]
    split = [SplitLayer(name=name, branches=branches(groups)) for name in layers]
    return plan_branching(model.state_dict(), split, TASKS, statistics=own if statistics else None)


def batches(number: int = 3) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(number):
        yield torch.randn(6, 4, dtype=torch.float64, generator=generator)


def check_training(model: Attending, plan: BranchingPlan, groups: str, engine: str) -> None:
    """Train, next to a network of its own for each group of tasks, through which no other task's stream runs."""
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan, engine)
    separate = {group: copy.deepcopy(model) for group in groups.split()}
    optimizer = torch.optim.SGD(branched.parameters(), 0.1)
    for x in batches():
        optimizer.zero_grad()
        outputs = branched(x)
        for group, own in separate.items():
            own.only = tuple(group)
            take_weights(own, branched, plan, group[0])
            assert all(torch.equal(outputs[task], output) for task, output in own(x).items()), group
            check_buffers(own, branched, plan, group)
        sum(output.square().mean() * (at + 1) for at, output in enumerate(outputs.values())).backward()
        optimizer.step()
    assert branched.engine.name == engine


def take_weights(own: nn.Module, branched: nn.Module, plan: BranchingPlan, task: str) -> None:
    state = branched.state_dict()
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.copy_(state[plan.place(name, task)])


def check_buffers(own: nn.Module, branched: nn.Module, plan: BranchingPlan, group: str) -> None:
    state = branched.state_dict()
    for name, buffer in own.named_buffers():
        if not name.startswith("heads.") or name.split(".")[1] in group:
            assert torch.equal(state[plan.place(name, group[0])], buffer), (group, name)


@pytest.mark.parametrize("groups", ["a b c", "ac b", "a bc", "b ac"])
@pytest.mark.parametrize("layers", [("norm",), ("linear", "norm")])
@each_engine
def test_each_copy_is_moved_by_the_streams_of_its_own_tasks(engine, layers, groups):
    model = network()
    check_training(model, plan_of(model, groups, *layers), groups, engine)


@pytest.mark.parametrize(
    ("engine", "groups"),
    [("graph", "a b c"), ("graph", "ac b"), ("calls", "a b c"), ("calls", "ac b"), ("passes", "a b c")],
)
def test_so_are_statistics_of_streams_where_a_layer_in_front_is_split(engine, groups):
    model = network()
    check_training(model, plan_of(model, groups, "trunk.0", statistics=True), groups, engine)


@pytest.mark.parametrize("head", [nn.Identity, lambda: nn.BatchNorm1d(4)])
@each_engine
def test_it_does_not_matter_what_comes_behind(engine, head):
    model = network(head)
    check_training(model, plan_of(model, "a b c", "norm"), "a b c", engine)


@each_engine
def test_what_the_layer_has_read_may_be_written_over(engine):
    model = network(overwrites=True)
    plan = plan_of(model, "a b c", "linear", "norm")
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan, engine)
    separate = {task: copy.deepcopy(model) for task in TASKS}
    with torch.no_grad():
        for x in batches():
            branched(x)
            for task, own in separate.items():
                own.only = (task,)
                own(x)
                check_buffers(own, branched, plan, task)


@each_engine
def test_a_task_that_is_computed_alone_moves_its_own_copy_alone(engine):
    model = network()
    plan = plan_of(model, "a b c", "norm")
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan, engine)
    own = copy.deepcopy(model)
    own.only = ("b",)
    for x in batches():
        branched(x, tasks=["b"])
        own(x)
    check_buffers(own, branched, plan, "b")
    state, before = branched.state_dict(), model.state_dict()
    for name in MOVED:
        assert all(torch.equal(state[f"norm.tasks.{task}.{name}"], before[f"norm.{name}"]) for task in "ac")


@each_engine
def test_the_shared_layers_of_mtan_are_those_of_a_network_of_one_task_once_they_are_split(engine):
    torch.manual_seed(0)
    channels = {"segmentation": 13, "depth": 1, "normals": 3}
    model = mtan(filters=(4, 6)).train()
    plan = plan_branching(
        model.state_dict(),
        [
            SplitLayer(name=name, branches=tuple(Branch(id=task, tasks=(task,)) for task in channels))
            for name in ("encoder_block_att.0.bn1", "encoder_block_att.1.bn1", "decoder_block_att.0.bn1")
        ],
        tuple(channels),
    )
    branched = recon_cli.BranchedModel(model, plan, engine)
    before = {name: value.clone() for name, value in branched.state_dict().items()}
    x = torch.randn(2, 3, 8, 12)
    branched(x), branched(x)
    for task, number in channels.items():
        own = mtan({task: number}, filters=(4, 6)).train()
        own.load_state_dict({name: before[plan.place(name, task)] for name in own.state_dict()})
        own(x), own(x)
        for split in plan.layers:
            for name in MOVED:
                found = branched.state_dict()[f"{split.name}.tasks.{task}.{name}"]
                assert torch.equal(found, own.state_dict()[f"{split.name}.{name}"]), (task, split.name, name)
