"""Exported programs forked at split layers, against the branched module and plain torch."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.export import Dim, ExportedProgram

import recon_cli
from recon_cli.artifacts.manifest import Branch, Manifest, SplitLayer
from recon_cli.branching.plan import BranchingPlan, plan_branching, split_per_task
from recon_cli.branching.programs.exported import fork_program
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.branching.statistics import own_statistics
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.dataflow.exported import dataflow_of_program
from recon_cli.errors import ReconError
from recon_cli.layers.discovery import discover_layers
from recon_cli.outputs import output_of
from tests import networks
from tests.branching.catalogue import AB, CATALOGUE
from tests.branching.test_engines import WHERE, chosen, move_apart, shared_layers
from tests.branching.test_module import loss_of
from tests.experiment.programs import quietly

FAST = ("basic blocks", "bottlenecks", "skips and unpooling", "vision transformer", "bert", "in place", "three tasks")
UNTRACEABLE = ("decisions from data", "a dataclass", "reentrant checkpointing")
"""Networks that `torch.export` refuses; of the last, it does not read what it has written itself."""


def is_fast(name: str, mode: str, where: str) -> bool:
    return name in FAST and (mode, where) in [("eval", "middle"), ("train", "early"), ("train", "late")]


CASES = [
    pytest.param(name, mode, where, marks=() if is_fast(name, mode, where) else pytest.mark.slow)
    for name in CATALOGUE
    if name not in UNTRACEABLE
    for mode in ("eval", "train")
    for where in WHERE
]


def export(model: nn.Module, inputs: tuple[Any, ...], *, dynamic: bool = False) -> ExportedProgram:
    """A program with weights of its own, for any size of batch if it is to be dynamic."""
    shapes = tuple({0: Dim("batch", min=2, max=64)} for _ in inputs) if dynamic else None
    with quietly():
        return torch.export.export(copy.deepcopy(model), inputs, dynamic_shapes=shapes)


def reloaded(program: ExportedProgram) -> ExportedProgram:
    """What plain torch reads of a program that is saved."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@cache
def exported(name: str, mode: str) -> tuple[nn.Module, tuple[Any, ...], ExportedProgram]:
    """A network of the catalogue, its inputs, and its program as a file holds it."""
    torch.manual_seed(2)
    model = CATALOGUE[name].make().double().train(mode == "train")
    inputs = CATALOGUE[name].inputs()
    return model, inputs, reloaded(export(model, inputs))


def plan_of(model: nn.Module, layers: list[str], tasks: tuple[str, ...]) -> BranchingPlan:
    found = [layer for layer in discover_layers(model) if layer.name in layers]
    split = [split_per_task(layer.name, layer.aliases, tasks) for layer in found]
    return plan_branching(model.state_dict(), split, tasks)


def assert_same_outputs(found: Any, expected: Any, tasks: tuple[str, ...]) -> None:
    for task in tasks:
        assert torch.equal(output_of(found, tasks, task), output_of(expected, tasks, task)), task


def assert_same_state(found: nn.Module, expected: nn.Module) -> None:
    state = expected.state_dict()
    assert set(found.state_dict()) == set(state)
    for name, value in found.state_dict().items():
        assert torch.equal(value, state[name]), name


def assert_same_gradients(found: nn.Module, expected: nn.Module) -> None:
    """Compare gradients; a module lists a tied parameter once, a program each of its names with a part of it."""
    names: dict[int, list[str]] = {}
    for name, parameter in expected.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    own = dict(found.named_parameters(remove_duplicate=False))
    for parameter in expected.parameters():
        parts = [grad for name in names[id(parameter)] if (grad := own[name].grad) is not None]
        assert bool(parts) == (parameter.grad is not None), names[id(parameter)]
        if parts:
            torch.testing.assert_close(sum(parts), parameter.grad, rtol=1e-9, atol=1e-12)


def operations(program: ExportedProgram, name: str) -> int:
    """How many operations of a kind a program has."""
    return sum(name in str(node.target) for node in program.graph.nodes if node.op == "call_function")


@pytest.mark.parametrize(("name", "mode", "where"), CASES)
def test_a_forked_program_computes_what_the_branched_module_does(name, mode, where):
    model, inputs, program = exported(name, mode)
    tasks = CATALOGUE[name].tasks
    plan = plan_of(model, chosen(shared_layers(copy.deepcopy(model), tasks, inputs), where), tasks)
    forked = reloaded(fork_program(program, plan)).module()
    branched = BranchedModel(copy.deepcopy(model), plan)
    assert_same_outputs(forked(*inputs), copy.deepcopy(model)(*inputs), tasks)
    branched(*inputs)
    # Running statistics have moved alike, those of the trunk once.
    assert_same_state(forked, branched)
    move_apart(branched)
    forked.load_state_dict(branched.state_dict())
    found, expected = forked(*inputs), branched(*inputs)
    assert_same_outputs(found, expected, tasks)
    for output in (found, expected):
        sum(loss_of(output, tasks, task) for task in tasks).backward()
    assert_same_gradients(forked, branched)
    assert_same_state(forked, branched)


class Mixed(nn.Module):
    """A trunk with BatchNorms, and a head for each of three tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.late, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in "abc"})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.last(self.late(x))).mean((2, 3))
        return {task: head(x) for task, head in self.heads.items()}


def mixed(*, train: bool = True) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(2)
    return Mixed().double().train(train), torch.rand(3, 1, 6, 6, dtype=torch.float64)


ABC = ("a", "b", "c")


def test_the_trunk_is_computed_once_and_its_statistics_move_once():
    model, x = mixed()
    program = export(model, (x,))
    forked = fork_program(program, plan_of(model, ["late"], ABC))
    assert operations(program, "conv2d") == 2
    assert operations(forked, "conv2d") == 4
    assert operations(forked, "batch_norm") == 4
    # A task's stream ends in its own head.
    assert operations(forked, "linear") == 3
    module = forked.module()
    module(x)
    model(x)
    state, expected = module.state_dict(), model.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(state[f"norm.{name}"], expected[f"norm.{name}"])


def test_groups_of_tasks_and_other_partitions_behind_them():
    model, x = mixed(train=False)
    layers = [
        SplitLayer(name="conv", branches=(Branch(id="left", tasks=("a", "b")), Branch(id="right", tasks=("c",)))),
        SplitLayer(name="late", branches=(Branch(id="x", tasks=("a",)), Branch(id="y", tasks=("b", "c")))),
    ]
    plan = plan_branching(model.state_dict(), layers, ABC)
    forked = fork_program(export(model, (x,)), plan)
    # Two streams through the first layer, three through the second.
    assert operations(forked, "conv2d") == 2 + 3
    module, branched = forked.module(), BranchedModel(model, plan)
    move_apart(branched)
    module.load_state_dict(branched.state_dict())
    assert_same_outputs(module(x), branched(x), ABC)


def test_a_tasks_loss_reaches_its_own_branches_alone():
    model, x = mixed()
    module = reloaded(fork_program(export(model, (x,)), plan_of(model, ["conv", "last"], ABC))).module()
    module(x)["b"].sum().backward()
    reached = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    own = {"conv.tasks.b.weight", "conv.tasks.b.bias", "last.tasks.b.weight", "last.tasks.b.bias"}
    shared = {"norm.weight", "norm.bias", "late.weight", "late.bias"}
    assert reached == own | shared | {"heads.b.weight", "heads.b.bias"}


@pytest.mark.parametrize("layer", ["conv", "norm", "last"])
def test_any_size_of_batch(layer):
    model, x = mixed()
    program = export(model, (x,), dynamic=True)
    plan = plan_of(model, [layer], ABC)
    forked = reloaded(fork_program(reloaded(program), plan))
    assert {str(each) for each in forked.range_constraints.values()} == {"VR[2, 64]"}
    branched = BranchedModel(model, plan)
    module = forked.module()
    for size in (2, 7, 64):
        x = torch.rand(size, 1, 6, 6, dtype=torch.float64)
        assert_same_outputs(module(x), branched(x), ABC)
    with pytest.raises(AssertionError):
        module(torch.rand(65, 1, 6, 6, dtype=torch.float64))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("layer", ["conv", "norm", "late", "last"])
def test_functional_programs(layer, train):
    model, x = mixed(train=train)
    with quietly():
        program = export(model, (x,)).run_decompositions({})
        plan = plan_of(model, [layer], ABC)
        module = reloaded(fork_program(program, plan)).module()
    branched = BranchedModel(model, plan)
    move_apart(branched)
    module.load_state_dict(branched.state_dict())
    with torch.no_grad():
        for _ in range(2):
            found, expected = module(x), branched(x)
            for task in ABC:
                torch.testing.assert_close(found[task], expected[task], rtol=1e-12, atol=1e-12)
    state = branched.state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-12, atol=1e-12)


def test_the_source_is_left_alone_and_shares_what_is_not_split():
    model, x = mixed()
    program = export(model, (x,))
    before = {name: value.clone() for name, value in program.state_dict.items()}
    text = str(program.graph)
    forked = fork_program(program, plan_of(model, ["conv"], ABC))
    assert str(program.graph) == text
    assert forked.state_dict["late.weight"] is program.state_dict["late.weight"]
    with torch.no_grad():
        forked.state_dict["conv.tasks.a.weight"].zero_()
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict.items())


class Writing(nn.Module):
    """Two tasks; what `write` does with the features of the trunk is part of it."""

    def __init__(self, write: Any, **buffers: torch.Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in AB})
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self.write = write

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.write(self, self.first(x), x)
        return {task: head(x) for task, head in self.heads.items()}


def add_to_view(net: Writing, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    view = x[:, :2]
    view += net.second(x.clone())[:, :2]
    return x * 2


def add_through_reshape(net: Writing, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    flat = x.reshape(-1)
    flat.add_(net.second(x.clone()).reshape(-1))
    flat.mul_(2)
    return x


def add_twice(net: Writing, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    early = x + 1
    x.add_(net.second(x.clone()))
    middle = x * 3
    x.sub_(net.second(x.clone()))
    return early + middle + x


def add_to_one_of_several(net: Writing, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    values, _ = x.sort(-1)
    values.add_(net.second(x))
    return values * 2


def count_batches(net: Writing, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    net.count.add_(1)
    return net.second(x) * net.count


def move_average(net: Writing, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    net.mean.copy_(0.9 * net.mean + 0.1 * net.first(x).detach().mean(0))
    return net.second(x)


@pytest.mark.parametrize(
    ("write", "buffers"),
    [
        (add_to_view, {}),
        (add_through_reshape, {}),
        (add_twice, {}),
        (add_to_one_of_several, {}),
        (count_batches, {"count": torch.zeros(())}),
        (move_average, {"mean": torch.zeros(4)}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_written_in_place(write, buffers):
    torch.manual_seed(2)
    model = Writing(write, **buffers).double()
    x = torch.rand(3, 4, dtype=torch.float64)
    plan = plan_of(model, ["second"], AB)
    module = reloaded(fork_program(export(model, (x,)), plan)).module()
    branched = BranchedModel(model, plan, "passes" if not buffers else "calls")
    move_apart(branched)
    module.load_state_dict(branched.state_dict())
    found, expected = module(x), branched(x)
    assert_same_outputs(found, expected, AB)
    assert_same_state(module, branched)
    for output in (found, expected):
        sum(loss_of(output, AB, task) for task in AB).backward()
    assert_same_gradients(module, branched)


def write_average_of_streams(net: Writing, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    x = net.second(x)
    net.mean.copy_(0.9 * net.mean + 0.1 * x.detach().mean(0))
    return x


def write_input(net: Writing, x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return given.add_(net.second(x).detach()) + x


def write_into_an_old_copy(net: Writing, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    flat = x.reshape(-1)
    x.mul_(2)
    x.add_(net.second(x))
    return x + flat.view(-1, 4)


@pytest.mark.parametrize(
    ("write", "buffers", "message"),
    [
        (
            write_average_of_streams,
            {"mean": torch.zeros(4)},
            "updates the buffer `mean`, which stays shared",
        ),
        (write_input, {}, "into its input"),
        (write_into_an_old_copy, {}, "of which it cannot be told what lies in it"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_forked_is_refused(write, buffers, message):
    model = Writing(write, **buffers).double()
    program = export(model, (torch.rand(3, 4, dtype=torch.float64),))
    with pytest.raises(ReconError, match=message):
        fork_program(program, plan_of(model, ["second"], AB))


def own_plan(model: nn.Module, program: ExportedProgram, layers: list[str], tasks: tuple[str, ...]) -> BranchingPlan:
    """A plan in which every stream has its own of the statistics that the program moves there."""
    keys, split = list(model.state_dict()), plan_of(model, layers, tasks).layers
    statistics = own_statistics(dataflow_of_program(program, tasks), split, keys)
    return plan_branching(keys, split, tasks, statistics=statistics)


@pytest.mark.parametrize("engine", ["calls", "passes"])
@pytest.mark.parametrize(
    ("name", "where", "number"),
    [
        ("basic blocks", "early", 9),
        ("bottlenecks", "middle", 3),
        ("reused modules", "late", 1),
        ("a tuple", "early", 1),
    ],
)
def test_every_stream_moves_statistics_of_its_own(name, where, number, engine):
    model, inputs, program = exported(name, "train")
    tasks = CATALOGUE[name].tasks
    plan = own_plan(model, program, chosen(shared_layers(copy.deepcopy(model), tasks, inputs), where), tasks)
    assert len(plan.statistics) == number
    module, branched = reloaded(fork_program(program, plan)).module(), BranchedModel(copy.deepcopy(model), plan, engine)
    move_apart(branched)
    module.load_state_dict(branched.state_dict())
    for _ in range(2):
        assert_same_outputs(module(*inputs), branched(*inputs), tasks)
    assert_same_state(module, branched)


@pytest.mark.parametrize("functional", [False, True])
def test_a_buffer_of_every_stream_may_be_moved_in_any_way(functional):
    torch.manual_seed(2)
    model = Writing(write_average_of_streams, mean=torch.zeros(4)).double()
    x = torch.rand(3, 4, dtype=torch.float64)
    with quietly():
        program = export(model, (x,))
        program = program.run_decompositions({}) if functional else program
        plan = own_plan(model, program, ["second"], AB)
        assert plan.places["mean"] == ("mean.tasks.a", "mean.tasks.b")
        module, branched = reloaded(fork_program(program, plan)).module(), BranchedModel(model, plan, "passes")
    move_apart(branched)
    module.load_state_dict(branched.state_dict())
    for _ in range(2):
        assert_same_outputs(module(x), branched(x), AB)
    assert_same_state(module, branched)
    assert not torch.equal(branched.state_dict()["mean.tasks.a"], branched.state_dict()["mean.tasks.b"])


class Output(nn.Module):
    """A network that returns what `form` makes of its two outputs."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        return self.form(self.a(x), self.b(x))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda a, b: {"a": a, "other": b}, "no key `b`"),
        (lambda a, b: (a, b, a), "returns 3 outputs for 2 tasks"),
        (lambda a, b: a + b, "returns one tensor for 2 tasks"),
    ],
)
def test_outputs_that_do_not_fit_the_tasks_are_refused(form, message):
    model = Output(form).double()
    program = export(model, (torch.rand(3, 4, dtype=torch.float64),))
    with pytest.raises(ReconError, match=message):
        fork_program(program, plan_of(model, ["first"], AB))


def test_several_outputs_for_a_task_and_others_that_belong_to_none():
    model = Output(lambda a, b: {"b": {"logits": b, "parts": (b * 2, None, 3)}, "a": [a], "norm": a.norm() + b.norm()})
    x = torch.rand(3, 4, dtype=torch.float64)
    plan = plan_of(model.double(), ["first"], AB)
    module = reloaded(fork_program(export(model, (x,)), plan)).module()
    branched = BranchedModel(model, plan)
    move_apart(branched)
    module.load_state_dict(branched.state_dict())
    found, expected = module(x), branched(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # They are computed in the first task's network.
    assert found.keys() == expected.keys()


def test_programs_that_write_their_inputs_when_they_have_run_are_refused():
    model = Writing(write_input).double()
    with quietly():
        program = export(model, (torch.rand(3, 4, dtype=torch.float64),)).run_decompositions({})
    with pytest.raises(ReconError, match="USER_INPUT_MUTATION"):
        fork_program(program, plan_of(model, ["second"], AB))


def program_file(name: str, program: ExportedProgram) -> None:
    with quietly():
        torch.export.save(program, name)


SPLIT = ("--layers", "late,last", "--tasks", "a,b,c")


def test_the_command_writes_a_program_that_plain_torch_runs(recon, caplog):
    model, x = mixed(train=False)
    program_file("net.pt2", export(model, (x,), dynamic=True))
    before = Path("net.pt2").read_bytes()
    out = recon("split", "net.pt2", *SPLIT, "-o", "out.pt2", "--allow-exported").succeeds().out
    assert "2 layers split for a, b, c" in out
    assert Path("net.pt2").read_bytes() == before
    # PyTorch has nothing to complain of.
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    extra = {"recon.manifest.json": ""}
    program = torch.export.load("out.pt2", extra_files=extra)
    module = program.module()
    x = torch.rand(9, 1, 6, 6, dtype=torch.float64)
    assert_same_outputs(module(x), model(x), ABC)
    branched = recon_cli.branch(model, "out.manifest.json")
    move_apart(branched)
    module.load_state_dict(branched.state_dict())
    assert_same_outputs(module(x), branched(x), ABC)
    assert Manifest.read(Path("out.manifest.json")).program.way == "fork"
    # The manifest is in it too, and proves it.
    assert Manifest.from_content(json.loads(extra["recon.manifest.json"]), "it") == Manifest.read(
        Path("out.manifest.json")
    )
    assert "run on" not in recon("verify", "out.pt2", "--source", "net.pt2").succeeds().out
    verified = recon("verify", "out.pt2", "--source", "net.pt2", "--allow-exported").succeeds()
    assert "run on the example inputs: outputs and gradients are the source's" in verified.out
    assert "late" in recon("inspect", "out.pt2").succeeds().out
    recon("extract", "out.pt2", "--task", "b", "-o", "b.safetensors").succeeds()
    assert set(load_file("b.safetensors")) == set(model.state_dict())


def test_what_is_announced_is_what_is_written(recon):
    model, x = mixed()
    program_file("net.pt2", export(model, (x,)))
    planned = recon("split", "net.pt2", *SPLIT, "-o", "o.pt2", "--allow-exported", "--dry-run", "--json").succeeds()
    assert not Path("o.pt2").exists()
    output = planned.document["output"]
    Path("plan.json").write_text(planned.out)
    recon("split", "net.pt2", "--plan", "plan.json", "-o", "o.pt2", "--allow-exported").succeeds()
    assert Path("o.pt2").stat().st_size == output["bytes"]
    assert Path("o.manifest.json").stat().st_size == output["manifest_bytes"]
    recon("split", "net.pt2", *SPLIT, "-o", "again.pt2", "--allow-exported").succeeds()
    assert Path("again.pt2").read_bytes() == Path("o.pt2").read_bytes()


def test_a_program_in_training_mode_trains_after_its_split(recon):
    model, x = mixed()
    program_file("net.pt2", export(model, (x,)))
    assert "warning" not in recon("split", "net.pt2", *SPLIT, "-o", "o.pt2", "--allow-exported").succeeds().err
    module = torch.export.load("o.pt2").module()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss_of(module(x), ABC, "c").backward()
    optimizer.step()
    moved = {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name for name in moved if ".tasks." in name} <= {name for name in before if ".tasks.c." in name}
    assert "late.tasks.c.weight" in moved


def test_a_functional_program_in_training_mode_is_warned_of(recon):
    model, x = mixed()
    with quietly():
        program_file("net.pt2", export(model, (x,)).run_decompositions({}))
    result = recon("split", "net.pt2", *SPLIT, "-o", "o.pt2", "--allow-exported", "--quiet").succeeds()
    assert "warning: the exported program `net.pt2` cannot be trained, nor can `o.pt2`" in result.err
    torch.export.load("o.pt2")


def test_nothing_is_loaded_unasked_and_other_outputs_need_not_ask(recon):
    model, x = mixed()
    program_file("net.pt2", export(model, (x,)))
    result = recon("split", "net.pt2", *SPLIT, "-o", "o.pt2")
    result.refuses("the exported program `net.pt2` is not opened unasked", "can run code", "--allow-exported")
    assert not Path("o.pt2").exists()
    recon("split", "net.pt2", *SPLIT, "-o", "o.safetensors").succeeds()
    assert "late.tasks.a.weight" in load_file("o.safetensors")


def test_a_program_has_to_be_one_and_stays_whole(recon):
    model, x = mixed()
    torch.save(model.state_dict(), "net.pt")
    recon("split", "net.pt", *SPLIT, "-o", "o.pt2").refuses("`o.pt2` is named like an exported program, but the source")
    program_file("net.pt2", export(model, (x,)))
    sharded = recon("split", "net.pt2", *SPLIT, "-o", "o.pt2", "--allow-exported", "--shard-size", "1KB")
    sharded.refuses("--shard-size divides safetensors")
    recon("split", "net.pt2", *SPLIT, "-o", "o.pt2", "--allow-exported").succeeds()
    again = recon("split", "o.pt2", "--layers", "conv", "--tasks", "a,b,c", "-o", "p.pt2", "--allow-exported")
    again.refuses("`o.pt2` is branched already")
    with zipfile.ZipFile("net.pt2") as good, zipfile.ZipFile("bad.pt2", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, b"{}" if name.endswith("models/model.json") else good.read(name))
    damaged = recon("split", "bad.pt2", *SPLIT, "-o", "p.pt2", "--allow-exported")
    damaged.refuses("the exported program `bad.pt2` cannot be opened")
    assert sorted(path.name for path in Path().iterdir()) == [
        "bad.pt2", "net.pt", "net.pt2", "o.manifest.json", "o.pt2",
    ]  # fmt: skip


def test_names_behind_a_prefix(recon):
    model, x = mixed(train=False)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.module(x)

    program_file("net.pt2", export(Wrapped(), (x,)))
    recon("split", "net.pt2", *SPLIT, "-o", "o.pt2", "--allow-exported").succeeds()
    program = torch.export.load("o.pt2")
    assert "module.late.tasks.b.weight" in program.state_dict
    assert_same_outputs(program.module()(x), model(x), ABC)
    recon("verify", "o.pt2", "--source", "net.pt2").succeeds()


def test_what_is_tied_stays_tied_in_each_branch(recon):
    model = networks.Tied().double()
    program_file("net.pt2", export(model, (torch.arange(5),)))
    arguments = ("--layers", "embed,decode", "--tasks", "word,kind", "--allow-exported")
    recon("split", "net.pt2", *arguments, "-o", "o.pt2").succeeds()
    with open_checkpoint(Path("o.pt2")) as source:
        ties = dict(source.ties)
    pairs = {frozenset(pair) for pair in ties.items()}
    assert pairs == {frozenset({f"embed.tasks.{t}.weight", f"decode.tasks.{t}.weight"}) for t in ("word", "kind")}


def test_a_program_whose_tasks_use_each_others_branches_is_found_by_running_it(recon):
    model, x = mixed(train=False)
    program = export(model, (x,))
    program_file("net.pt2", program)
    recon("split", "net.pt2", *SPLIT, "-o", "out.pt2", "--allow-exported").succeeds()
    manifest = Manifest.read(Path("out.manifest.json"))
    turned = {"a": "b", "b": "c", "c": "a"}
    layers = [
        layer.model_copy(
            update={"branches": tuple(Branch(id=b.id, tasks=(turned[b.tasks[0]],)) for b in layer.branches)}
        )
        for layer in manifest.layers
    ]
    wrong = fork_program(program, plan_branching(program.state_dict, layers, ABC))
    extra = {"recon.manifest.json": Path("out.manifest.json").read_text()}
    torch.export.save(wrong, "wrong.pt2", extra_files=extra)
    assert recon("verify", "wrong.pt2", "--source", "net.pt2").succeeds().code == 0
    found = recon("verify", "wrong.pt2", "--source", "net.pt2", "--allow-exported", "--json")
    assert found.code == 1 and found.document["compared"] == "run"
    assert any("the loss of task `a` reaches `late.tasks" in problem for problem in found.document["problems"])


def test_programs_that_cannot_be_compared_by_running_them_are_not(recon):
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            x = torch.nn.functional.dropout(self.last(self.late(x)), training=True)
            return x, x + 1, x + 2

    program_file("net.pt2", export(Noisy(), (torch.rand(2, 3),)))
    recon("split", "net.pt2", *SPLIT, "-o", "out.pt2", "--allow-exported").succeeds()
    found = recon("verify", "out.pt2", "--source", "net.pt2", "--allow-exported").succeeds()
    assert "was not compared: the programs draw random numbers" in found.out


def test_a_program_that_trains_is_written_with_statistics_for_every_stream(recon):
    model, x = mixed()
    program_file("net.pt2", export(model, (x,)))
    split = ["split", "net.pt2", "--layers", "late", "--tasks", "a,b,c", "--allow-exported"]
    result = recon(*split, "-o", "o.pt2").succeeds()
    assert "running statistics of 1 other layer for every stream: `last`" in result.out
    assert "stay shared" not in result.err
    assert Manifest.read(Path("o.manifest.json")).batchnorm == "per-stream"
    module = torch.export.load("o.pt2").module()
    with torch.no_grad():
        module.get_parameter("late.tasks.b.weight").mul_(2)
        model(x), module(x)
    state, expected = module.state_dict(), model.state_dict()
    assert torch.equal(state["norm.running_mean"], expected["norm.running_mean"])
    for task in "ac":
        assert torch.equal(state[f"last.running_mean.tasks.{task}"], expected["last.running_mean"])
        assert state[f"last.num_batches_tracked.tasks.{task}"] == 1
    assert not torch.equal(state["last.running_mean.tasks.b"], expected["last.running_mean"])
    recon("verify", "o.pt2", "--source", "net.pt2").succeeds()
    recon("unsplit", "o.pt2", "-o", "back.safetensors").succeeds()
    assert load_file("back.safetensors").keys() == expected.keys()
    recon(*split, "--batchnorm", "shared", "-o", "s.pt2").succeeds()
    assert "last.running_mean" in torch.export.load("s.pt2").state_dict


def test_a_program_whose_data_flow_depends_on_values_keeps_one_set_of_statistics(recon):
    class Choosing(Mixed):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = super().forward(x)
            return outputs | {"a": outputs["a"] * outputs["b"].nonzero().shape[0]}

    torch.manual_seed(2)
    program_file("net.pt2", export(Choosing(), (torch.rand(3, 1, 6, 6),)))
    split = ["split", "net.pt2", "--layers", "late", "--tasks", "a,b,c", "--allow-exported", "-o", "o.pt2"]
    recon(*split, "--batchnorm", "per-stream").refuses("the operations of the program cannot be counted")
    assert "the running statistics of 2 unsplit layers stay shared (`norm`, `last`)" in recon(*split).succeeds().err
    assert Manifest.read(Path("o.manifest.json")).batchnorm == "unknown"
