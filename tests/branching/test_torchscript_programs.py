"""Branched TorchScript files, against separate networks, the branched module and plain torch."""

from __future__ import annotations

import copy
import json
import os
import sys
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from recon_cli.artifacts.manifest import Branch, Manifest, SplitLayer
from recon_cli.branching.plan import BranchingPlan, plan_branching
from recon_cli.branching.programs.torchscript import process
from recon_cli.branching.programs.torchscript.branching import write_branched
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.programs import loading
from recon_cli.errors import ReconError
from recon_cli.outputs import output_of
from tests import networks
from tests.branching.catalogue import AB, CATALOGUE
from tests.branching.test_engines import WHERE, chosen, move_apart, shared_layers
from tests.branching.test_module import loss_of
from tests.branching.test_programs import (
    ABC,
    SPLIT,
    Mixed,
    assert_same_outputs,
    assert_same_state,
    mixed,
    plan_of,
)
from tests.experiment import programs
from tests.experiment.programs import quietly

pytestmark = [
    pytest.mark.skipif(sys.version_info >= (3, 14), reason="PyTorch has no TorchScript there"),
    pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning"),
]

Script = torch.jit.ScriptModule


def compiled(model: nn.Module) -> Script:
    """A scripted network, as a file holds it."""
    return _reloaded(torch.jit.script, model)


def _reloaded(make: Any, model: nn.Module) -> Script:
    path = Path("source.ts").resolve()
    with quietly():
        make(copy.deepcopy(model)).save(str(path))
        loaded = torch.jit.load(path)
    path.unlink()
    return loaded


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def branched(source: Script, plan: BranchingPlan, way: str = "fork") -> Script:
    """What plain torch reads of the branched file, which has to be made in one way."""
    found, reason = write_branched(source, plan, ("fork", "passes"), Path("branched.ts"))
    assert found == way, reason
    with quietly():
        loaded = torch.jit.load("branched.ts")
    assert set(loaded.state_dict()) == {name for names in plan.places.values() for name in names}
    return loaded


def run(module: Script, *inputs: Any) -> Any:
    """The output of a network of TorchScript's without its optimiser, which joins operations."""
    with torch.jit.optimized_execution(False):
        return module(*inputs)


def move_copies(module: Script) -> None:
    """Change every floating copy of a split tensor in a way of its own."""
    generator = torch.Generator().manual_seed(5)
    for name, value in module.state_dict().items():
        if ".tasks." in name and value.is_floating_point():
            value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator, dtype=value.dtype))


def expected(
    model: nn.Module, plan: BranchingPlan, state: dict[str, Tensor], inputs: tuple[Any, ...]
) -> dict[str, Any]:
    """What separate networks return, each with the tensors of one task."""
    outputs = {}
    for task in plan.tasks:
        own = copy.deepcopy(model)
        layers = {name: layer for layer in plan.layers for name in (layer.name, *layer.aliases)}
        tensors = {}
        for key in plan.places:
            names = plan.copies.get(key)
            layer = key.rpartition(".")[0] or key
            tensors[key] = state[names[layers[layer].branch_of(task)] if names else key]
        own.load_state_dict(tensors)
        outputs[task] = output_of(own(*copy.deepcopy(inputs)), plan.tasks, task)
    return outputs


def check_against_separate_networks(model: nn.Module, module: Script, plan: BranchingPlan, *inputs: Any) -> None:
    """Compare outputs, first as they are and then with copies that differ."""
    for move in (lambda _: None, move_copies):
        move(module)
        state = copy.deepcopy(module.state_dict())
        wanted = expected(model, plan, state, inputs)
        found = run(module, *copy.deepcopy(inputs))
        for task in plan.tasks:
            torch.testing.assert_close(output_of(found, plan.tasks, task), wanted[task], rtol=0, atol=0)


def operations(module: Script, kind: str) -> int:
    """How many operations of a kind there are in all that a network runs."""
    graph = module.inlined_graph
    return len(graph.findAllNodes(f"aten::{kind}", recurse=True))


FAST = {"basic blocks": "scripted", "skips and unpooling": "scripted", "bottlenecks": "traced", "in place": "traced"}
SCRIPTED = ("basic blocks", "skips and unpooling", "cross-stitch")
"""Networks of the catalogue that TorchScript compiles; the others are traced alone."""

UNTRACED = ("skips and unpooling", "reentrant checkpointing", "bert", "an own function", "a dataclass")
"""Networks that cannot be traced, or whose state dict is another one then."""


def _is_fast(name: str, how: str, mode: str, where: str) -> bool:
    return FAST.get(name) == how and (mode, where) in [("eval", "middle"), ("train", "early"), ("train", "late")]


CASES = [
    pytest.param(name, how, mode, where, marks=() if _is_fast(name, how, mode, where) else pytest.mark.slow)
    for name in CATALOGUE
    for how in ("scripted", "traced")
    if name in SCRIPTED or how == "traced"
    if name not in UNTRACED or how == "scripted"
    for mode in ("eval", "train")
    for where in WHERE
]


@cache
def archived(name: str, how: str, mode: str) -> tuple[nn.Module, tuple[Any, ...], bytes]:
    """A network of the catalogue, its inputs, and the TorchScript file of it."""
    torch.manual_seed(2)
    model = CATALOGUE[name].make().double().train(mode == "train")
    inputs = CATALOGUE[name].inputs()
    write = programs.script if how == "scripted" else programs.trace
    write(copy.deepcopy(model), inputs, Path("source.ts"))
    return model, inputs, Path("source.ts").read_bytes()


@pytest.mark.parametrize(("name", "how", "mode", "where"), CASES)
def test_a_forked_file_computes_what_the_branched_module_does(name, how, mode, where):
    model, inputs, content = archived(name, how, mode)
    Path("source.ts").write_bytes(content)
    source = torch.jit.load("source.ts")
    tasks = CATALOGUE[name].tasks
    plan = plan_of(model, chosen(shared_layers(copy.deepcopy(model), tasks, inputs), where), tasks)
    module, reference = branched(source, plan), BranchedModel(copy.deepcopy(model), plan)
    assert_same_outputs(run(module, *inputs), copy.deepcopy(model)(*inputs), tasks)
    reference(*inputs)
    # Running statistics have moved alike, those of the trunk once.
    assert_same_state(module, reference)
    move_apart(reference)
    module.load_state_dict(reference.state_dict())
    found, wanted = run(module, *inputs), reference(*inputs)
    assert_same_outputs(found, wanted, tasks)
    for output in (found, wanted):
        sum(loss_of(output, tasks, task) for task in tasks).backward()
    own = dict(module.named_parameters())
    for key, parameter in reference.named_parameters():
        if key in own:
            assert (own[key].grad is None) == (parameter.grad is None), key
            if parameter.grad is not None:
                torch.testing.assert_close(own[key].grad, parameter.grad, rtol=1e-9, atol=1e-12)
    assert_same_state(module, reference)


class Scripted(nn.Module):
    """What `Mixed` is, in words that TorchScript compiles."""

    def __init__(self) -> None:
        super().__init__()
        made = Mixed()
        self.conv, self.norm, self.late, self.last, self.heads = made.conv, made.norm, made.late, made.last, made.heads

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu_(self.norm(self.conv(x)))
        x = torch.relu_(self.last(self.late(x))).mean((2, 3))
        out: dict[str, Tensor] = {}
        for task, head in self.heads.items():
            out[task] = head(x)
        return out


def scripted(*, train: bool = True) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    return Scripted().double().train(train), torch.rand(3, 1, 6, 6, dtype=torch.float64)


def test_the_trunk_is_computed_once_and_its_statistics_move_once():
    model, x = scripted()
    source = compiled(model)
    module = branched(source, plan_of(model, ["late"], ABC))
    assert operations(source, "conv2d") == 2
    assert operations(module, "conv2d") == 4
    assert operations(module, "batch_norm") == 4
    # A task's stream ends in its own head.
    assert operations(module, "linear") == 3
    run(module, x)
    model(x)
    state, wanted = module.state_dict(), model.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(state[f"norm.{name}"], wanted[f"norm.{name}"])


def test_a_scripted_file_can_be_switched_between_training_and_evaluation():
    model, x = scripted()
    plan = plan_of(model, ["late", "last"], ABC)
    module, reference = branched(compiled(model), plan), BranchedModel(model, plan)
    for mode in (True, False, True):
        module.train(mode)
        reference.train(mode)
        assert_same_outputs(run(module, x), reference(x), ABC)
        assert_same_state(module, reference)


def test_groups_of_tasks_and_other_partitions_behind_them():
    model, x = scripted(train=False)
    layers = [
        SplitLayer(name="conv", branches=(Branch(id="left", tasks=("a", "b")), Branch(id="right", tasks=("c",)))),
        SplitLayer(name="late", branches=(Branch(id="x", tasks=("a",)), Branch(id="y", tasks=("b", "c")))),
    ]
    plan = plan_branching(model.state_dict(), layers, ABC)
    module = branched(compiled(model), plan)
    # Two streams through the first layer, three through the second.
    assert operations(module, "conv2d") == 2 + 3
    check_against_separate_networks(model, module, plan, x)


def test_a_tasks_loss_reaches_its_own_branches_alone():
    model, x = scripted()
    module = branched(compiled(model), plan_of(model, ["conv", "last"], ABC))
    run(module, x)["b"].sum().backward()
    reached = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    own = {"conv.tasks.b.weight", "conv.tasks.b.bias", "last.tasks.b.weight", "last.tasks.b.bias"}
    shared = {"norm.weight", "norm.bias", "late.weight", "late.bias"}
    assert reached == own | shared | {"heads.b.weight", "heads.b.bias"}


@settings(max_examples=15)
@given(st.data())
def test_any_partition_of_any_layers(data):
    model, x = scripted(train=False)
    names = data.draw(st.lists(st.sampled_from(["conv", "norm", "late", "last"]), min_size=1, max_size=4, unique=True))
    layers = []
    for name in names:
        groups = data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=3))
        members = {group: tuple(t for t, own in zip(ABC, groups, strict=True) if own == group) for group in groups}
        branches = tuple(Branch(id=f"g{group}", tasks=tasks) for group, tasks in members.items())
        layers.append(SplitLayer(name=name, branches=branches))
    plan = plan_branching(model.state_dict(), layers, ABC)
    check_against_separate_networks(model, branched(compiled(model), plan), plan, x)


class Two(nn.Module):
    """Two linear layers and a head for each of two tasks; subclasses say what is done with them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)


class AddsInPlace(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.first(x)
        h += self.second(x)
        return {"a": self.a(h), "b": self.b(h)}


class AddsToView(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.first(x).sub_(0.5)
        view = h[:, :2]
        view += self.second(x)[:, :2]
        h.mul_(2)
        return {"a": self.a(h), "b": self.b(h)}


class Tuples(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.second(self.first(x))
        return self.a(h), self.b(h)


class Pair(NamedTuple):
    b: Tensor
    a: Tensor
    norm: Tensor


class NamedTuples(Two):
    def forward(self, x: Tensor) -> Pair:
        h = self.second(self.first(x))
        return Pair(self.b(h), self.a(h), h.norm())


class Lists(Two):
    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.second(self.first(x))
        return [self.a(h), self.b(h)]


class Nested(Two):
    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        h = self.second(self.first(x))
        return {"b": [self.b(h), h], "a": [self.a(h)], "other": [h]}


class Collects(Two):
    """Fills a list and a dictionary, and reads them meanwhile."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {"x": x}
        every: list[Tensor] = [x]
        found["first"] = self.first(x)
        every.append(found["first"])
        early = torch.stack(every).sum(0)
        found["second"] = self.second(early)
        every.append(found["second"])
        h = torch.stack(every).sum(0) + found["first"] * found["second"]
        return {"a": self.a(h), "b": self.b(h)}


class Loops(Two):
    """Fills lists in loops of as many rounds as the data say."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        before: list[Tensor] = []
        h = x
        for _ in range(x.size(0)):
            h = torch.tanh(self.first(h))
            before.append(h)
        h = torch.stack(before).mean(0)
        behind: list[Tensor] = []
        while len(behind) < 3 and bool(h.sum() > -1000):
            h = torch.tanh(self.second(h))
            behind.append(h)
        h = torch.stack(behind).mean(0)
        return {"a": self.a(h), "b": self.b(h)}


class Decides(Two):
    """Runs a layer or not as the data say."""

    def forward(self, x: Tensor, extra: Tensor | None = None) -> dict[str, Tensor]:
        h = self.first(x)
        if extra is not None:
            h = h + extra
        h = torch.relu(h)
        if bool(h.sum() > 0.1):
            h = self.second(h) * 2
        assert h.size(1) == 4, "four features"
        return {"a": self.a(h), "b": self.b(h)}


class ReturnsEarly(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.second(self.first(x))
        if bool(x.sum() > 0):
            return {"a": self.a(h), "b": self.b(h), "more": h}
        return {"a": self.b(h), "b": self.a(h)}


class ReturnsTuplesEarly(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.second(self.first(x))
        if bool(x.sum() > 0):
            return self.a(h), self.b(h)
        return self.b(h), self.a(h)


class WithoutGradient(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            centre = self.second(self.first(x)).mean(0)
        h = self.second(self.first(x)) - centre
        return {"a": self.a(h), "b": self.b(h)}


class FillsOnBothWays(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.first(x)
        found: list[Tensor] = []
        if bool(x.sum() > 0):
            found.append(h)
            found.append(self.second(h))
        else:
            with torch.no_grad():
                found.append(self.second(h * 2))
            found.append(h)
        h = h + torch.stack(found).sum(0)
        return {"a": self.a(h), "b": self.b(h)}


CONTROL = [
    AddsInPlace, AddsToView, Tuples, NamedTuples, Lists, Nested, Collects, Loops, Decides, ReturnsEarly,
    ReturnsTuplesEarly, WithoutGradient, FillsOnBothWays,
]  # fmt: skip


def reached_by(output: Any, parameters: Any) -> set[str]:
    """The names of the parameters that the first task's output depends on."""
    own = output_of(output, AB, "a")
    names, values = zip(*parameters, strict=True)
    found = torch.autograd.grad((own[0] if isinstance(own, list) else own).sum(), values, allow_unused=True)
    return {name for name, grad in zip(names, found, strict=True) if grad is not None}


@pytest.mark.parametrize("layers", [["first"], ["second"], ["first", "second"]], ids=",".join)
@pytest.mark.parametrize("network", CONTROL)
def test_whatever_the_code_does(network, layers):
    torch.manual_seed(2)
    model = network().double()
    plan = plan_of(model, layers, AB)
    source = compiled(model)
    module = branched(source, plan)
    for sign in (1, -1):
        x = sign * torch.rand(3, 4, dtype=torch.float64)
        check_against_separate_networks(model, module, plan, x)
        # The task's loss reaches what it reaches in its own network.
        wanted = {
            plan.copies[key]["a"] if key in plan.copies else key
            for key in reached_by(model(x), model.named_parameters())
        }
        assert reached_by(run(module, x), module.named_parameters()) == wanted
    once = operations(source, "linear")
    assert operations(module, "linear") <= 2 * once - (layers == ["second"])


def test_what_is_not_the_tasks_is_the_first_tasks():
    torch.manual_seed(2)
    model = NamedTuples().double()
    plan = plan_of(model, ["second"], AB)
    module = branched(compiled(model), plan)
    move_copies(module)
    x = torch.rand(3, 4, dtype=torch.float64)
    h = model.first(x)
    state = module.state_dict()
    own = torch.nn.functional.linear(h, state["second.tasks.a.weight"], state["second.tasks.a.bias"])
    assert torch.equal(run(module, x).norm, own.norm())
    assert run(module, x)._fields == ("b", "a", "norm")


def test_default_arguments_and_constants_stay():
    class Described(Decides):
        __constants__ = ("classes",)

        def __init__(self) -> None:
            super().__init__()
            self.classes = 7
            self.note = "as trained"

    torch.manual_seed(2)
    module = branched(compiled(Described().double()), plan_of(Described(), ["second"], AB))
    assert module.classes == 7
    assert module.note == "as trained"
    assert module.second.tasks.a.in_features == 4
    x = torch.rand(3, 4, dtype=torch.float64)
    assert not torch.equal(run(module, x)["a"], run(module, x, x)["a"])


class Counts(Two):
    """Sets attributes: a buffer that is computed from the trunk, a number, and a buffer of the layer that is split."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.calls = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.first(x)
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        self.calls += 1
        h = self.second(h) + self.mean * self.calls
        return {"a": self.a(h), "b": self.b(h)}


def test_attributes_that_the_network_sets():
    torch.manual_seed(2)
    model = Counts().double()
    plan = plan_of(model, ["second"], AB)
    module, reference = branched(compiled(model), plan), copy.deepcopy(model)
    x = torch.rand(3, 4, dtype=torch.float64)
    for _ in range(3):
        assert_same_outputs(run(module, x), reference(x), AB)
    assert torch.equal(module.mean, reference.mean)
    assert module.calls == 3


class SetsInBranches(Counts):
    """Sets an attribute on one of two ways."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.second(self.first(x))
        if bool(x.sum() > 0):
            self.mean = self.mean + 1
        h = h + self.mean
        return {"a": self.a(h), "b": self.b(h)}


class WritesInput(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.second(self.first(x))
        x.add_(h.detach())
        return {"a": self.a(x), "b": self.b(x)}


class Sum:
    def __init__(self, first: Tensor) -> None:
        self.value = first

    def add(self, more: Tensor) -> None:
        self.value = self.value + more


class OwnClass(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        total = Sum(self.first(x))
        total.add(self.second(x))
        return {"a": self.a(total.value), "b": self.b(total.value)}


class WritesElement(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.first(x)
        found = [h] if bool(x.sum() > 0) else [self.second(h), h]
        found[0].mul_(self.second(x))
        h = h + found[0]
        return {"a": self.a(h), "b": self.b(h)}


class WritesBesideAnOldCopy(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.first(x)
        flat = h.reshape(-1)
        h.mul_(2)
        h.add_(self.second(x))
        h = h + flat.view(-1, 4)
        return {"a": self.a(h), "b": self.b(h)}


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (SetsInBranches, "control flow"),
        (WritesInput, "into its input"),
        (OwnClass, "an object of its own class"),
        (WritesElement, "of which it cannot be told what lies in it"),
        (WritesBesideAnOldCopy, "of which it cannot be told what lies in it"),
    ],
)
def test_what_cannot_be_forked_runs_once_for_every_task(network, reason):
    torch.manual_seed(2)
    model = network().double()
    plan = plan_of(model, ["second"], AB)
    source = compiled(model)
    way, why = write_branched(source, plan, ("fork", "passes"), Path("branched.ts"))
    assert way == "passes"
    assert reason in why
    module = branched(source, plan, "passes")
    assert operations(module, "linear") == 2 * operations(source, "linear")
    x = -torch.rand(3, 4, dtype=torch.float64)
    check_against_separate_networks(model, module, plan, x)
    run(module, x)["b"].sum().backward()
    reached = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert not any(".tasks.a." in name for name in reached)


def test_passes_set_attributes_in_turn_and_show_what_the_last_one_wrote():
    torch.manual_seed(2)
    model = SetsInBranches().double()
    module = branched(compiled(model), plan_of(model, ["second"], AB), "passes")
    x = torch.rand(3, 4, dtype=torch.float64)
    output = run(module, x)
    assert torch.equal(module.mean, torch.full_like(module.mean, 2))
    h = model.second(model.first(x))
    assert torch.equal(output["a"], model.a(h + 1))
    assert torch.equal(output["b"], model.b(h + 2))
    model = WritesInput().double()
    plan = plan_of(model, ["second"], AB)
    module = branched(compiled(model), plan, "passes")
    x = torch.rand(3, 4, dtype=torch.float64)
    wanted = x.clone()
    model(wanted)
    run(module, x)
    assert torch.equal(x, wanted)


@pytest.mark.parametrize("network", CONTROL)
def test_passes_compute_the_same(network):
    torch.manual_seed(2)
    model = network().double()
    plan = plan_of(model, ["second"], AB)
    way, reason = write_branched(compiled(model), plan, ("passes",), Path("branched.ts"))
    assert (way, reason) == ("passes", None)
    module = torch.jit.load("branched.ts")
    for sign in (1, -1):
        check_against_separate_networks(model, module, plan, sign * torch.rand(3, 4, dtype=torch.float64))


def test_layers_with_others_inside_are_split_tensor_by_tensor():
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(4))
            self.register_buffer("shift", torch.rand(4))
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * self.scale + self.shift

    class Outer(Two):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.rand(4))
            self.mid = Inside()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.mid(self.first(x)) * self.own
            return {"a": self.a(h), "b": self.b(h)}

    torch.manual_seed(2)
    model = Outer().double()
    plan = plan_of(model, ["mid", "own"], AB)
    module = branched(compiled(model), plan)
    assert {"mid.scale.tasks.a", "mid.shift.tasks.b", "own.tasks.a", "mid.inner.weight"} <= set(module.state_dict())
    assert "mid.scale.tasks.a" in dict(module.named_parameters())
    assert "mid.shift.tasks.a" in dict(module.named_buffers())
    check_against_separate_networks(model, module, plan, torch.rand(3, 4, dtype=torch.float64))


def test_parameters_that_are_frozen_stay_so():
    model, _ = scripted()
    model.late.weight.requires_grad_(False)
    model.conv.weight.requires_grad_(False)
    module = branched(compiled(model), plan_of(model, ["late"], ABC))
    still = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert still == {"conv.weight", *(f"late.tasks.{task}.weight" for task in ABC)}


class ChoosesItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor, at: int) -> tuple[Tensor, Tensor]:
        part: OneLayer = self.parts[at]
        return part.forward(x), x


class OneLayer:
    def forward(self, input: Tensor) -> Tensor:
        pass


with quietly():
    OneLayer = torch.jit.interface(OneLayer)


def test_modules_that_are_chosen_at_run_time_are_refused():
    source = compiled(ChoosesItself())
    with pytest.raises(ReconError, match="only known when it runs"):
        write_branched(source, plan_of(ChoosesItself(), ["parts.0"], AB), ("fork", "passes"), Path("o.ts"))


def test_hooks_are_refused():
    def hook(self, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return inputs

    model = Tuples()
    model.first.register_forward_pre_hook(hook)
    with pytest.raises(ReconError, match="`first` has hooks"):
        write_branched(compiled(model), plan_of(Tuples(), ["first"], AB), ("fork",), Path("o.ts"))


class OneTensor(Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.first(x))


class OtherKeys(Two):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.a(self.first(x)), "c": self.b(x)}


class ThreeParts(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.a(self.first(x)), self.b(x), x


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (OneTensor, "returns one tensor for 2 tasks"),
        (OtherKeys, "no key `b`"),
        (ThreeParts, "returns 3 outputs for 2 tasks"),
    ],
)
def test_outputs_that_do_not_fit_the_tasks_are_refused(network, message):
    source = compiled(network())
    with pytest.raises(ReconError, match=message):
        write_branched(source, plan_of(network(), ["first"], AB), ("fork", "passes"), Path("o.ts"))


def script_file(name: str, model: nn.Module) -> None:
    programs.script(copy.deepcopy(model), (), Path(name))


def test_the_command_writes_a_file_that_plain_torch_runs(recon):
    model, x = scripted(train=False)
    script_file("net.pt", model)
    before = Path("net.pt").read_bytes()
    result = recon("split", "net.pt", *SPLIT, "-o", "out.ts.pt", "--allow-torchscript").succeeds()
    assert "2 layers split for a, b, c" in result.out
    assert "computed once" in result.err
    assert "warning" not in result.err
    assert Path("net.pt").read_bytes() == before
    extra = {"recon.manifest.json": ""}
    module = torch.jit.load("out.ts.pt", _extra_files=extra)
    assert_same_outputs(run(module, x), model(x), ABC)
    manifest = Manifest.read(Path("out.ts.manifest.json"))
    # The manifest is in it too, and proves it.
    assert Manifest.from_content(json.loads(extra["recon.manifest.json"]), "it") == manifest
    assert manifest.program.way == "fork"
    assert "graphs" not in recon("verify", "out.ts.pt", "--source", "net.pt").succeeds().out
    verified = recon("verify", "out.ts.pt", "--source", "net.pt", "--allow-torchscript").succeeds()
    assert "the graphs agree: every task is computed as in the source" in verified.out
    assert "late" in recon("inspect", "out.ts.pt").succeeds().out
    recon("extract", "out.ts.pt", "--task", "b", "-o", "b.safetensors").succeeds()
    assert set(load_file("b.safetensors")) == set(model.state_dict())
    recon("unsplit", "out.ts.pt", "-o", "back.safetensors").succeeds()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in load_file("back.safetensors").items())


def test_what_is_announced_is_what_is_written(recon):
    model, _ = scripted()
    script_file("net.pt", model)
    planned = recon("split", "net.pt", *SPLIT, "-o", "o.jit", "--allow-torchscript", "--dry-run", "--json").succeeds()
    assert not Path("o.jit").exists()
    Path("plan.json").write_text(planned.out)
    recon("split", "net.pt", "--plan", "plan.json", "-o", "o.jit", "--allow-torchscript").succeeds()
    assert Path("o.jit").stat().st_size == planned.document["output"]["bytes"]
    recon("split", "net.pt", *SPLIT, "-o", "again.torchscript", "--allow-torchscript").succeeds()
    assert Path("again.torchscript").read_bytes() == Path("o.jit").read_bytes()


def test_a_traced_file_says_that_its_mode_is_fixed(recon):
    model, x = mixed(train=False)
    programs.trace(model, (x,), Path("net.pt"))
    result = recon("split", "net.pt", *SPLIT, "-o", "o.ts", "--allow-torchscript", "-q").succeeds()
    assert "warning: `o.ts` keeps 4 BatchNorm or dropout operations in evaluation mode" not in result.err
    assert "warning: `o.ts` keeps 2 BatchNorm or dropout operations in evaluation mode" in result.err
    assert_same_outputs(run(torch.jit.load("o.ts"), x), model(x), ABC)


def test_the_second_way_is_told(recon):
    model = SetsInBranches()
    script_file("net.pt", model)
    result = recon("split", "net.pt", "--layers", "second", "--tasks", "a,b", "-o", "o.ts", "--allow-torchscript")
    assert "warning: `o.ts` runs the whole network once for every task" in result.succeeds().err
    program = Manifest.read(Path("o.manifest.json")).program
    assert program.way == "passes"
    assert "`mean` within its control flow" in program.reason


def test_a_process_that_is_killed_by_a_graph_is_survived(recon, monkeypatch):
    monkeypatch.setattr(process, "_PROGRAM", "tests.branching.crashing")
    model, x = scripted(train=False)
    script_file("net.pt", model)
    result = recon("split", "net.pt", *SPLIT, "-o", "o.ts", "--allow-torchscript").succeeds()
    assert "because PyTorch ended with SIGSEGV" in result.err
    assert_same_outputs(run(torch.jit.load("o.ts"), x), model(x), ABC)
    monkeypatch.setattr(process, "_WAYS", ("fork",) * 2)
    again = recon("split", "net.pt", *SPLIT, "-o", "p.ts", "--allow-torchscript")
    again.refuses("`net.pt` cannot be branched: PyTorch ended with SIGSEGV")
    assert not Path("p.ts").exists()


def test_too_little_room_to_work_is_refused(recon, monkeypatch):
    model, _ = scripted()
    script_file("net.pt", model)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((1, 1, 9, 9, 2000, 0, 0, 0, 0, 255)))
    result = recon("split", "net.pt", *SPLIT, "-o", "o.ts", "--allow-torchscript")
    result.refuses("`o.ts` takes", "bytes while it is made, but only 2,000 are free")


class Plain(Two):
    """Has tensors that are attributes, but no parameters or buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.ones = torch.ones(4)
        self.second.mask = torch.tensor([1.0, 0, 1, 0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.second(self.first(x) + self.ones) * self.second.mask
        return self.a(h), self.b(h)


def test_tensors_that_are_plain_attributes_go_with_their_modules(recon):
    model = Plain()
    script_file("net.pt", model)
    recon("split", "net.pt", "--layers", "second", "--tasks", "a,b", "-o", "o.ts", "--allow-torchscript").succeeds()
    entries = {entry.path: entry.treatment for entry in Manifest.read(Path("o.manifest.json")).entries}
    assert entries == {"ones": "kept", "second.mask": "branched"}
    module = torch.jit.load("o.ts")
    assert torch.equal(module.second.tasks.b.mask, model.second.mask)
    x = torch.rand(3, 4)
    assert_same_outputs(run(module, x), model(x), AB)
    recon("verify", "o.ts", "--source", "net.pt").succeeds()
    recon("extract", "o.ts", "--task", "b", "-o", "b.safetensors").succeeds()


def test_nothing_is_loaded_unasked_and_other_outputs_need_not_ask(recon):
    model, _ = scripted()
    script_file("net.pt", model)
    result = recon("split", "net.pt", *SPLIT, "-o", "o.ts")
    result.refuses("the TorchScript file `net.pt` is not opened unasked", "can run code", "--allow-torchscript")
    assert not Path("o.ts").exists()
    recon("split", "net.pt", *SPLIT, "-o", "o.pt").succeeds()
    assert "late.tasks.a.weight" in torch.load("o.pt", weights_only=True)


def test_what_is_no_network_of_torchscripts_is_refused(recon):
    model, _ = scripted()
    torch.save(model.state_dict(), "weights.pt")
    options = (*SPLIT, "-o", "o.ts.pt", "--allow-torchscript")
    recon("split", "weights.pt", *options).refuses("`o.ts.pt` is named like a TorchScript file, but the source is none")
    script_file("net.pt", model)
    recon("split", "net.pt", *options, "--shard-size", "1KB").refuses("--shard-size divides safetensors")
    with quietly():
        torch.jit.freeze(torch.jit.script(model.eval())).save("frozen.pt")
    recon("split", "frozen.pt", *options).refuses("a frozen archive keeps its weights without their names")
    script_file("one.pt", OneTensor())
    one = recon("split", "one.pt", "--layers", "first", "--tasks", "a,b", "-o", "o.ts", "--allow-torchscript")
    one.refuses("the TorchScript file `one.pt` cannot be branched: the network returns one tensor for 2 tasks")
    recon("split", "net.pt", *options).succeeds()
    again = recon("split", "o.ts.pt", "--layers", "conv", "--tasks", "a,b,c", "-o", "p.ts", "--allow-torchscript")
    again.refuses("`o.ts.pt` is branched already")
    with zipfile.ZipFile("net.pt") as good, zipfile.ZipFile("bad.pt", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            bad.writestr(name, content.replace(b"def forward", b"deaf forward") if name.endswith(".py") else content)
    damaged = recon("split", "bad.pt", *SPLIT, "-o", "p.ts", "--allow-torchscript")
    damaged.refuses("the TorchScript file `bad.pt` cannot be branched: it cannot be opened")
    assert sorted(path.name for path in Path().iterdir()) == [
        "bad.pt", "frozen.pt", "net.pt", "o.ts.manifest.json", "o.ts.pt", "one.pt", "weights.pt",
    ]  # fmt: skip


def test_python_without_torchscript(recon, monkeypatch):
    model, _ = scripted()
    script_file("net.pt", model)
    monkeypatch.setattr(loading, "sys", SimpleNamespace(version_info=(3, 14, 0)))
    result = recon("split", "net.pt", *SPLIT, "-o", "o.ts", "--allow-torchscript")
    result.refuses("PyTorch does not support TorchScript on Python 3.14 and later")


def test_names_behind_a_prefix(recon):
    model, x = scripted(train=False)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return self.module(x)

    script_file("net.pt", Wrapped())
    recon("split", "net.pt", *SPLIT, "-o", "o.ts", "--allow-torchscript").succeeds()
    module = torch.jit.load("o.ts")
    assert "module.late.tasks.b.weight" in module.state_dict()
    assert_same_outputs(run(module, x), model(x), ABC)
    recon("verify", "o.ts", "--source", "net.pt").succeeds()


def test_what_is_tied_stays_tied_in_each_branch(recon):
    model = networks.Tied().double()
    programs.trace(model, (torch.arange(5),), Path("net.pt"))
    arguments = ("--layers", "embed,decode", "--tasks", "word,kind", "--allow-torchscript")
    recon("split", "net.pt", *arguments, "-o", "o.ts").succeeds()
    with open_checkpoint(Path("o.ts")) as source:
        pairs = {frozenset(pair) for pair in source.ties.items()}
    assert pairs == {frozenset({f"embed.tasks.{t}.weight", f"decode.tasks.{t}.weight"}) for t in ("word", "kind")}
    module = torch.jit.load("o.ts")
    run(module, torch.arange(5))["word"].sum().backward()
    grads = {name: p.grad for name, p in module.named_parameters(remove_duplicate=False)}
    assert torch.equal(grads["embed.tasks.word.weight"], grads["decode.tasks.word.weight"])


def test_modules_are_not_taken_from_the_folder_that_the_user_is_in(recon):
    model, _ = scripted()
    script_file("net.pt", model)
    Path("json.py").write_text("raise SystemExit(3)")
    recon("split", "net.pt", *SPLIT, "-o", "o.ts", "--allow-torchscript").succeeds()
    assert {path.name for path in Path().iterdir()} == {"json.py", "net.pt", "o.ts", "o.manifest.json"}


def test_a_file_whose_tasks_use_each_others_branches_is_found_by_its_graph(recon):
    model, _ = scripted(train=False)
    script_file("net.pt", model)
    recon("split", "net.pt", *SPLIT, "-o", "o.ts", "--allow-torchscript").succeeds()
    manifest = Manifest.read(Path("o.manifest.json"))
    turned = {"a": "b", "b": "c", "c": "a"}
    layers = []
    for layer in manifest.layers:
        branches = tuple(Branch(id=branch.id, tasks=(turned[branch.tasks[0]],)) for branch in layer.branches)
        layers.append(layer.model_copy(update={"branches": branches}))
    plan = plan_branching([record.key for record in manifest.tensors], layers, ABC)
    write_branched(torch.jit.load("net.pt"), plan, ("fork",), Path("wrong.ts"))
    options = ("wrong.ts", "--source", "net.pt", "--manifest", "o.manifest.json")
    recon("verify", *options).succeeds()
    found = recon("verify", *options, "--allow-torchscript", "--json")
    assert found.code == 1 and found.document["compared"] == "graphs"
    assert found.document["problems"] == ["the graph would compute something else for task `a`"]
