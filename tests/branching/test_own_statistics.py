"""Running statistics of every stream in the branched module, against one separate network for each task."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import recon_cli
from recon_cli.artifacts.manifest import Branch, SplitLayer, SplitStatistics
from recon_cli.branching.plan import BranchingPlan, plan_branching

TASKS = ("a", "b", "c")
NORM = ("running_mean", "running_var", "num_batches_tracked")


class Centre(nn.Module):
    """Takes the moving average of its input from it; counts in a buffer that is not saved."""

    def __init__(self, *, replaced: bool) -> None:
        super().__init__()
        self.replaced = replaced
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            own = x.detach().mean(0)
            self.seen.add_(1)
            if self.replaced:
                self.mean = self.mean + (own - self.mean) / self.seen
            else:
                self.mean.mul_(0.9).add_(own, alpha=0.1)
        return (x - self.mean) * self.weight


class Channels(nn.Module):
    """An InstanceNorm over the features as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.unsqueeze(2) * torch.arange(1, 4)).mean(2)


KINDS: dict[str, tuple[Callable[[], nn.Module], str, tuple[str, ...]]] = {
    "batch norm": (lambda: nn.BatchNorm1d(4), "", NORM),
    "average over all batches": (lambda: nn.BatchNorm1d(4, momentum=None), "", NORM),
    "without parameters": (lambda: nn.BatchNorm1d(4, affine=False), "", NORM),
    "synchronised": (lambda: nn.SyncBatchNorm(4), "", NORM),
    "instance norm": (Channels, ".norm", NORM[:2]),
    "written in place": (lambda: Centre(replaced=False), "", ("mean",)),
    "replaced": (lambda: Centre(replaced=True), "", ("mean",)),
}
"""How a norm is made, what is behind its name, and the buffers that move."""

UNTRACEABLE = ("average over all batches", "replaced")
"""Norms that make PyTorch's compiler give up, as they read a value, or put something in a buffer's place."""


class Network(nn.Module):
    """A norm in the trunk, another one behind the layer that is split, and one in the head of each task."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.early = nn.Linear(4, 4), make()
        self.split, self.late, self.last = nn.Linear(4, 4), make(), nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)) for task in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.early(self.first(x)))
        x = torch.relu(self.late(self.split(x)))
        x = self.last(x)
        return {task: head(x) for task, head in self.heads.items()}


def branches(*groups: str) -> tuple[Branch, ...]:
    return tuple(Branch(id=group[0], tasks=tuple(group)) for group in groups)


def plan_of(model: nn.Module, kind: str, *groups: str, own: bool = True) -> BranchingPlan:
    _, behind, moved = KINDS[kind]
    layer = SplitLayer(name="split", branches=branches(*groups))
    buffers = tuple(f"late{behind}.{name}" for name in moved)
    statistics = SplitStatistics(name=f"late{behind}", branches=branches(*groups), buffers=buffers)
    return plan_branching(model.state_dict(), [layer], TASKS, statistics=[statistics] if own else None)


def batches(number: int = 4) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(number):
        yield torch.randn(6, 4, dtype=torch.float64, generator=generator)


def network(kind: str) -> Network:
    torch.manual_seed(0)
    return Network(KINDS[kind][0]).double().train()


def separate_networks(model: Network) -> dict[str, Network]:
    return {task: copy.deepcopy(model) for task in TASKS}


def take_weights(networks: dict[str, Network], branched: nn.Module, plan: BranchingPlan) -> None:
    """Give the network of every task the weights that it has in the branched one; statistics are their own."""
    state = branched.state_dict()
    with torch.no_grad():
        for task, own in networks.items():
            for name, parameter in own.named_parameters():
                parameter.copy_(state[plan.place(name, task)])


def assert_same_buffers(branched: nn.Module, networks: dict[str, Network], plan: BranchingPlan) -> None:
    state = branched.state_dict()
    for task, own in networks.items():
        for name, buffer in own.named_buffers():
            is_other_head = name.startswith("heads.") and not name.startswith(f"heads.{task}.")
            if name in plan.places and not is_other_head:
                assert torch.equal(state[plan.place(name, task)], buffer), (task, name)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The warnings are those of other tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


GROUPS = ("a b c", "ac b", "a bc", "abc")


@pytest.mark.parametrize(
    ("engine", "groups"), [("auto", "ac b"), *((engine, each) for engine in ("calls", "passes") for each in GROUPS)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_stream_has_the_statistics_of_a_network_of_its_own(kind, groups, engine):
    model = network(kind)
    plan = plan_of(model, kind, *groups.split())
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan, engine)
    optimizer = torch.optim.SGD(branched.parameters(), 0.1)
    separate = separate_networks(model)
    for x in batches():
        take_weights(separate, branched, plan)
        optimizer.zero_grad()
        outputs = branched(x)
        for task, own in separate.items():
            torch.testing.assert_close(outputs[task], own(x)[task], rtol=0, atol=0)
        assert_same_buffers(branched, separate, plan)
        sum(output.square().mean() * (at + 1) for at, output in enumerate(outputs.values())).backward()
        optimizer.step()
    runs = "calls" if kind in UNTRACEABLE else "graph"
    assert branched.engine.name == (runs if engine == "auto" else engine)
    branched.eval(), take_weights(separate, branched, plan)
    for x in batches(2):
        outputs = branched(x)
        for task, own in separate.items():
            assert torch.equal(outputs[task], own.eval()(x)[task])
    assert_same_buffers(branched, separate, plan)


@pytest.mark.parametrize("engine", ["auto", "calls", "passes"])
def test_a_buffer_that_a_head_replaces_is_moved_by_its_own_task_alone(engine):
    torch.manual_seed(0)
    model = Network(lambda: nn.BatchNorm1d(4)).double().train()
    for head in model.heads.values():
        head[0] = Centre(replaced=True).double()
    plan = plan_of(model, "batch norm", "ac", "b")
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan, engine)
    separate = separate_networks(model)
    with torch.no_grad():
        for copied in branched.split.tasks.children():
            copied.weight.add_(torch.randn(4, 4, dtype=torch.float64))
    for x in batches():
        take_weights(separate, branched, plan)
        outputs = branched(x)
        assert all(torch.equal(outputs[task], own(x)[task]) for task, own in separate.items())
        assert_same_buffers(branched, separate, plan)


@pytest.mark.parametrize("engine", ["auto", "calls", "passes"])
def test_a_task_that_is_computed_alone_moves_its_own_statistics_alone(engine):
    model = network("batch norm")
    plan = plan_of(model, "batch norm", "ac", "b")
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan, engine)
    (x,) = batches(1)
    branched(x, tasks=["c"])
    separate = separate_networks(model)
    for task in "ac":
        separate[task](x)
    state, expected = branched.state_dict(), separate["c"].state_dict()
    for name in NORM:
        assert torch.equal(state[f"early.{name}"], expected[f"early.{name}"])
        assert torch.equal(state[f"late.{name}.tasks.a"], expected[f"late.{name}"])
        assert torch.equal(state[f"late.{name}.tasks.b"], model.state_dict()[f"late.{name}"])


def test_the_trunk_goes_on_as_it_was_when_the_engine_changes():
    class Writing(Network):
        """Writes for one task into what the others have read."""

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x = torch.relu(self.early(self.first(x)))
            h = self.late(self.split(x))
            outputs = {task: head(self.last(h) + x[:, :4]) for task, head in self.heads.items()}
            assert h.sum().item() < 1e9
            with torch.no_grad():
                x.view(-1)[:1].add_(h.sum())
            return outputs

    torch.manual_seed(0)
    model = Writing(lambda: nn.BatchNorm1d(4)).double().train()
    plan = plan_of(model, "batch norm", "a", "bc")
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan)
    separate = separate_networks(model)
    with torch.no_grad():
        with pytest.warns(UserWarning, match="once for every task from now on"):
            branched(next(batches()))
        assert branched.engine.name == "passes"
        branched(next(batches()))
        for _ in range(2):
            for own in separate.values():
                own(next(batches()))
    assert_same_buffers(branched, separate, plan)


def test_they_are_saved_loaded_copied_and_converted():
    model = network("batch norm")
    plan = plan_of(model, "batch norm", "ac", "b")
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan)
    first, second, third = batches(3)
    branched(first)
    loaded = recon_cli.BranchedModel(copy.deepcopy(model), plan)
    loaded.load_state_dict(branched.state_dict())
    assigned = recon_cli.BranchedModel(copy.deepcopy(model), plan)
    assigned.load_state_dict(copy.deepcopy(branched.state_dict()), assign=True)
    others = [loaded, assigned, copy.deepcopy(branched), pickle.loads(pickle.dumps(branched))]
    for other in (branched, *others):
        other(second), other.eval()(third), other.train()
    expected = branched.state_dict()
    assert expected["late.num_batches_tracked.tasks.b"] == 2
    for other in others:
        state = other.state_dict()
        assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in state)
    single = branched.float()
    single(second.float())
    assert single.state_dict()["late.running_mean.tasks.b"].dtype == torch.float32
    assert single.state_dict()["late.num_batches_tracked.tasks.b"] == 3


def test_a_norm_can_be_frozen_by_its_name():
    model = network("batch norm")
    branched = recon_cli.BranchedModel(model, plan_of(model, "batch norm", "a", "b", "c"))
    branched.late.eval()
    before = copy.deepcopy(branched.state_dict())
    branched(next(batches()))
    state = branched.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in state if name.startswith("late."))
    assert not torch.equal(state["early.running_mean"], before["early.running_mean"])


@pytest.mark.parametrize("engine", ["auto", "calls", "passes"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_task_that_does_without_a_norm_leaves_the_counts_of_others_alone(engine, momentum):
    class Early(Network):
        """The first task's head sees what comes before the norm."""

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            h = self.split(self.early(self.first(x)))
            later = self.late(h)
            return {task: head(h if task == "a" else later) for task, head in self.heads.items()}

    torch.manual_seed(0)
    model = Early(lambda: nn.BatchNorm1d(4, momentum=momentum)).double().train()
    plan = recon_cli.branching_plan(model, ["split"], TASKS, next(batches()))
    (statistics,) = plan.statistics
    assert [branch.tasks for branch in statistics.branches] == [("a", "b"), ("c",)]
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan, engine)
    with torch.no_grad():
        for copied in branched.split.tasks.children():
            copied.weight.add_(torch.randn(4, 4, dtype=torch.float64))
    separate = separate_networks(model)
    for x in batches():
        take_weights(separate, branched, plan)
        outputs = branched(x)
        assert all(torch.equal(outputs[task], own(x)[task]) for task, own in separate.items())
    del separate["a"]
    assert_same_buffers(branched, separate, plan)
