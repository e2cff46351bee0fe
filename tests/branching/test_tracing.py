"""The engine `graph`: when it runs a network, when it leaves it to another engine, and what it computes."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import sys
import warnings
import weakref
from collections import OrderedDict, UserDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import recon_cli
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.errors import ReconError
from recon_cli.network_states import uncompiled
from tests.branching.catalogue import Bottleneck, Heads, sequential
from tests.branching.test_engines import move_apart, resnet
from tests.branching.test_module import manifest_of

TASKS = ("a", "b")


class Network(nn.Module):
    """A split layer, a layer behind it, and whatever is done with them."""

    def __init__(self, trunk: Callable[[Network, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.split, self.behind = nn.Linear(4, 4), nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})
        self.trunk = trunk
        self.scale = 1.0
        self.seen = 0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.trunk(self, x)
        return {task: head(features) for task, head in self.heads.items()}


def plain(net: Network, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(net.behind(net.split(x)))


def both(model: nn.Module, folder: Any, layers: tuple[str, ...] = ("split",), tasks: tuple[str, ...] = TASKS) -> Any:
    """The branched network with the engine `auto`, and the same with `calls`, its copies apart."""
    manifest = manifest_of(model, list(layers), tasks, folder)
    auto, calls = (recon_cli.branch(copy.deepcopy(model), manifest, engine) for engine in ("auto", "calls"))
    move_apart(auto)
    calls.load_state_dict(auto.state_dict())
    return auto, calls


def agree(auto: BranchedModel, calls: BranchedModel, *args: Any) -> None:
    found, expected = auto(*args), calls(*args)
    for task, value in expected.items():
        assert torch.equal(found[task], value)


def x(rows: int = 3) -> torch.Tensor:
    return torch.rand(rows, 4)


def operations(run: Callable[[], object], name: str) -> int:
    """How often an operation is run; a profiler, unlike a mode, is seen by no network."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    return sum(event.name == name for event in profiled.events())


@pytest.mark.parametrize(
    ("layer", "convolutions"),
    [("trunk.0", 18), ("trunk.1.conv1", 9 + 2 + 1 + 4), ("trunk.2.conv3", 10), ("trunk.2.down", 10)],
)
def test_what_the_tasks_share_is_run_once_and_streams_as_far_as_they_differ(tmp_path, layer, convolutions):
    branched = recon_cli.branch(resnet(), manifest_of(resnet(), [layer], TASKS, tmp_path), "graph")
    batch = torch.rand(2, 1, 8, 8)
    branched(batch)
    assert operations(lambda: branched(batch), "aten::conv2d") == convolutions
    assert operations(lambda: branched(batch), "aten::linear") == 2
    branched(batch, tasks=["b"])
    assert operations(lambda: branched(batch, tasks=["b"]), "aten::conv2d") == 9
    assert operations(lambda: branched(batch, tasks=["b"]), "aten::linear") == 1


def test_heads_of_other_tasks_are_not_run(tmp_path):
    tasks = tuple(f"t{at}" for at in range(5))
    model = Heads(sequential(nn.Conv2d(1, 8, 3), Bottleneck(8, 2)), 8, tasks)
    branched = recon_cli.branch(model, manifest_of(model, ["trunk.0"], tasks, tmp_path), "graph")
    batch = torch.rand(2, 1, 8, 8)
    branched(batch)
    assert operations(lambda: branched(batch), "aten::linear") == 5


def test_one_task_alone_gets_what_it_gets_beside_the_others(tmp_path):
    auto, _ = both(Network(plain), tmp_path)
    batch = x()
    every = auto(batch)
    alone = auto(batch, tasks=["b"])
    assert list(alone) == ["b"] and torch.equal(alone["b"], every["b"])
    assert auto.engine.name == "graph"


def test_modes_gradients_shapes_and_frozen_weights_may_change_between_calls(tmp_path):
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.split = nn.BatchNorm1d(4), nn.Linear(4, 4)
            self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})

        def forward(self, x):
            features = self.split(self.norm(x))
            return {task: head(features) for task, head in self.heads.items()}

    auto, calls = both(Noisy(), tmp_path)
    for rows in (3, 5):
        agree(auto.train(), calls.train(), x(rows))
        agree(auto.eval(), calls.eval(), x(rows))
        with torch.no_grad():
            agree(auto, calls, x(rows))
    for branched in (auto, calls):
        branched.get_parameter("split.tasks.a.weight").requires_grad_(False)
    agree(auto.train(), calls.train(), x())
    sum(value.sum() for value in auto(x()).values()).backward()
    assert auto.get_parameter("split.tasks.a.weight").grad is None
    assert auto.get_parameter("split.tasks.b.weight").grad is not None
    assert auto.engine.name == "graph"


def test_numbers_that_the_code_reads_may_change_between_calls(tmp_path):
    def scaled(net, x):
        return net.behind(net.split(x) * net.heads.scale)

    auto, calls = both(Network(scaled), tmp_path)
    for scale in (1.0, 2.0, 3.0, 4.0, 5.0):
        for branched in (auto, calls):
            branched.heads.scale = scale
        agree(auto, calls, x())


def test_draws_of_python_are_drawn_in_every_call(tmp_path):
    def drops(net, x):
        return net.behind(x) if random.random() < 0.5 else net.behind(net.split(x))

    auto, _ = both(Network(drops), tmp_path)
    random.seed(0)
    batch = x()
    found = {tuple(auto(batch)["b"].flatten().tolist()) for _ in range(20)}
    assert len(found) > 1


@pytest.mark.parametrize("attribute", ["seen", "features"])
def test_what_the_code_keeps_in_attributes_is_left_to_another_engine(tmp_path, attribute):
    def keeps(net, x):
        net.seen += 1
        value = net.behind(net.split(x))
        if attribute == "features":
            net.features = value
        return value * net.seen

    auto, calls = both(Network(keeps), tmp_path)
    for _ in range(5):
        found, expected = auto(torch.ones(1, 4)), calls(torch.ones(1, 4))
        assert found.keys() == expected.keys() and all(torch.isfinite(value).all() for value in found.values())
    assert auto.engine.name == "calls"


def test_a_tensor_that_is_registered_nowhere_is_left_to_another_engine(tmp_path):
    model = Network(lambda net, x: net.behind(net.split(x)) + net.offset)
    model.offset = torch.ones(4)
    auto, calls = both(model, tmp_path)
    agree(auto, calls, x())
    assert auto.engine.name == "calls" and "no parameter, no buffer" in auto.engine.reason


def test_hooks_are_called_in_every_pass_as_long_as_they_are_there(tmp_path):
    auto, calls = both(Network(plain), tmp_path)
    agree(auto, calls, x())
    seen = []
    handle = auto.get_submodule("split.tasks.b").register_forward_hook(lambda *_: seen.append("b"))
    agree(auto, calls, x())
    assert seen == ["b"]
    handle.remove()
    agree(auto, calls, x())
    assert seen == ["b"] and auto.engine.name == "graph"


def test_copies_that_are_set_differently_compute_different_things(tmp_path):
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
            self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})

        def forward(self, x):
            x = x[None]
            features = self.attention(x, x, x)[0][0]
            return {task: head(features) for task, head in self.heads.items()}

    model = Dropping()
    auto, _ = both(model, tmp_path, ("attention", "attention.out_proj"))
    auto.eval()
    batch = x()
    quiet = auto(batch)
    auto.train()
    noisy = auto(batch)
    assert not torch.equal(noisy["b"], quiet["b"])
    (tmp_path / "norm").mkdir()
    auto, _ = both(Heads(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)), 4), tmp_path / "norm", ("trunk.0",))
    auto.get_submodule("trunk.0.tasks.b").eval()
    before = auto.state_dict()["trunk.0.tasks.b.running_mean"].clone()
    auto(batch)
    assert torch.equal(auto.state_dict()["trunk.0.tasks.b.running_mean"], before)
    assert not torch.equal(auto.state_dict()["trunk.0.tasks.a.running_mean"], before)


def test_code_that_fails_fails_with_its_own_error_and_is_traced_when_it_is_mended(tmp_path):
    auto, calls = both(Network(plain), tmp_path)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            auto(torch.rand(3, 5))
    agree(auto, calls, x())
    assert auto.engine.name == "graph"


def test_autocast_inside_and_outside_of_the_network(tmp_path):
    def lower(net, x):
        with torch.autocast("cpu", torch.bfloat16):
            return net.behind(net.split(x)).float()

    auto, calls = both(Network(lower), tmp_path)
    agree(auto, calls, x())
    with torch.autocast("cpu", torch.bfloat16):
        agree(auto, calls, x())
        assert auto(x())["a"].dtype is torch.bfloat16
    assert auto.engine.name == "graph"


def test_a_network_that_fails_inside_autocast_leaves_it(tmp_path):
    def fails(net, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = net.split(x)
            return torch.linalg.cholesky(x.float() @ x.float().T - net.behind.weight.sum().abs() * 1e6)

    auto, _ = both(Network(fails), tmp_path)
    with pytest.raises(RuntimeError):
        auto(x(4))
    assert not torch.is_autocast_enabled("cpu")


def test_it_is_copied_and_pickled_after_a_run(tmp_path):
    auto, calls = both(resnet(), tmp_path, ("trunk.1.conv1",))
    batch = torch.rand(2, 1, 8, 8)
    auto.eval()
    calls.eval()
    agree(auto, calls, batch)
    for other in (copy.deepcopy(auto), pickle.loads(pickle.dumps(auto))):
        agree(other, calls, batch)
        with torch.no_grad():
            other.get_parameter("trunk.1.conv1.tasks.a.weight").zero_()
        assert not torch.equal(other(batch)["a"], calls(batch)["a"])
    agree(auto, calls, batch)


def test_tensors_that_are_put_in_others_places_are_used(tmp_path):
    auto, calls = both(Network(plain), tmp_path)
    agree(auto, calls, x())
    state = {name: torch.rand_like(value) for name, value in auto.state_dict().items()}
    auto.load_state_dict(state, assign=True)
    calls.load_state_dict(state)
    agree(auto, calls, x())
    found = torch.func.functional_call(auto, state, (torch.ones(1, 4),))
    assert torch.equal(found["b"], calls(torch.ones(1, 4))["b"])
    auto.double()
    calls.double()
    agree(auto, calls, x().double())
    assert auto.engine.name == "graph"


def test_inputs_of_many_shapes_are_run_call_by_call(tmp_path):
    auto, calls = both(Network(plain), tmp_path)
    for rows in range(1, 12):
        agree(auto, calls, x(rows))
    assert auto.engine.name == "graph"


def test_an_input_that_is_written_to_is_written_to_once(tmp_path):
    def counts(net, x):
        x.add_(1)
        return net.behind(net.split(x))

    auto, calls = both(Network(counts), tmp_path)
    batch, other = torch.zeros(3, 4), torch.zeros(3, 4)
    for times in (1, 2):
        found, expected = auto(batch), calls(other)
        assert torch.equal(batch, torch.full((3, 4), float(times)))
        assert all(torch.equal(found[task], expected[task]) for task in TASKS)
    assert auto.engine.name == "graph"


def test_what_several_tasks_write_into_by_slices_becomes_each_ones_own(tmp_path):
    def fills(net, x):
        out = torch.zeros(len(x), 6)
        before = out[:, 2:]
        out[:, :4] = net.split(x)
        out[:, 4:].fill_(0.5)
        return net.behind(before) + out[:, :4]

    model = Network(fills)
    manifest = manifest_of(model, ["split"], TASKS, tmp_path)
    # Calls cannot be shared where a task writes into what has views.
    graph, passes = (recon_cli.branch(copy.deepcopy(model), manifest, engine) for engine in ("graph", "passes"))
    move_apart(graph)
    passes.load_state_dict(graph.state_dict())
    for _ in range(2):
        agree(graph, passes, x())
    same_gradients(graph, passes, x())


def test_writing_into_one_of_several_results_is_left_to_another_engine(tmp_path):
    def overwrites(net, x):
        values, where = x.sort()
        values[:, :2] = net.split(x)[:, :2]
        return net.behind(values) * where

    auto, calls = both(Network(overwrites), tmp_path)
    agree(auto, calls, x())
    assert auto.engine.name == "calls" and "writes in place" in auto.engine.reason


class Mapped(OrderedDict):
    """A mapping of the user's own."""


def test_outputs_of_other_types_keep_them(tmp_path):
    class Model(Network):
        def forward(self, x):
            return Mapped(super().forward(x))

    auto, calls = both(Model(plain), tmp_path)
    assert type(auto(x())) is Mapped
    agree(auto, calls, x())


def test_one_tensor_for_two_tasks_becomes_two(tmp_path):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split = nn.Linear(4, 4)

        def forward(self, x):
            features = self.split(x)
            return {"a": features, "b": features}

    auto, calls = both(Model(), tmp_path)
    agree(auto, calls, x())
    assert not torch.equal(*auto(x()).values())


def test_it_says_why_it_cannot_when_it_is_asked_for(tmp_path):
    def decides(net, x):
        value = net.split(x)
        return net.behind(value) if value.sum() > 0 else value

    branched = recon_cli.branch(Network(decides), manifest_of(Network(decides), ["split"], TASKS, tmp_path), "graph")
    with pytest.raises(ReconError, match="engine `graph`: its code cannot be traced"):
        branched(x())
    branched.trunk = plain
    with torch.compiler.set_stance("force_eager"), pytest.raises(ReconError, match="switched off"):
        branched(x())


def same_gradients(auto: BranchedModel, calls: BranchedModel, *args: Any) -> None:
    for branched in (auto, calls):
        branched.zero_grad(set_to_none=True)
        sum(value.sin().sum() for value in branched(*args).values()).backward()
    for name, expected in calls.named_parameters():
        found = auto.get_parameter(name).grad
        assert (found is None) == (expected.grad is None), name
        if found is not None:
            torch.testing.assert_close(found, expected.grad)


REPLACING: dict[str, Callable[[Any], object]] = {
    "a head": lambda net: net.heads.register_module("b", nn.Linear(4, 2)),
    "all heads": lambda net: setattr(net, "heads", nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})),
    "a shared layer": lambda net: setattr(net, "behind", nn.Linear(4, 4)),
    "the first copy": lambda net: setattr(net.split.tasks, "a", nn.Linear(4, 4)),
    "another copy": lambda net: setattr(net.split.tasks, "b", nn.Linear(4, 4)),
    "a copy by more": lambda net: setattr(net.split.tasks, "b", nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
    "a copy's bias": lambda net: setattr(net.split.tasks.a, "bias", None),
    "a copy's code": lambda net: setattr(net.split.tasks.b, "forward", torch.tanh),
    "a copy's weight": lambda net: parametrize.register_parametrization(net.split.tasks.b, "weight", nn.Softplus()),
    "what trains": lambda net: net.split.tasks.a.requires_grad_(requires_grad=False),
}


@pytest.mark.parametrize("what", REPLACING)
@pytest.mark.parametrize("has_run", [False, True])
def test_what_is_replaced_is_not_used_any_more(tmp_path, what, has_run):
    auto, calls = both(Network(plain), tmp_path)
    if has_run:
        agree(auto, calls, x())
    for branched in (auto, calls):
        torch.manual_seed(4)
        REPLACING[what](branched)
    for _ in range(2):
        agree(auto, calls, x())
        same_gradients(auto, calls, x())


class Activated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))
        self.activation: Any = torch.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(x * self.weight) + getattr(self, "offset", 0.0)


@pytest.mark.parametrize(("attribute", "value"), [("activation", torch.tanh), ("offset", 1.0)])
def test_any_attribute_may_be_set_on_one_copy_alone(tmp_path, attribute, value):
    model = Network(plain)
    model.split = Activated()
    auto, calls = both(model, tmp_path)
    agree(auto, calls, x())
    for branched in (auto, calls):
        setattr(branched.get_submodule("split.tasks.b"), attribute, value)
    agree(auto, calls, x())


def test_code_that_asks_what_trains_is_told_for_every_task(tmp_path):
    def asks(net, x):
        return net.split(x) if net.split.weight.requires_grad else net.behind(x)

    auto, calls = both(Network(asks), tmp_path)
    for task in TASKS:
        for branched in (auto, calls):
            branched.get_submodule(f"split.tasks.{task}").requires_grad_(task == "b")
        agree(auto, calls, x())


def remembers(net, x):
    value = net.split(x)
    if net.seen is not None:
        value = value + net.seen
    net.seen = value.detach()
    return value


def alternates(net, x):
    net.seen = not net.seen
    return net.split(x) * (2 if net.seen else 1)


def collects(net, x):
    net.heads.collected.append(1)
    return net.split(x) * len(net.heads.collected)


def sets_its_input(net, x):
    x["scale"] *= 2
    return net.split(x["x"]) * x["scale"]


@pytest.mark.parametrize("trunk", [remembers, alternates, collects])
def test_what_is_tried_leaves_no_trace_in_attributes(tmp_path, trunk):
    model = Network(trunk)
    model.seen, model.heads.collected = None, []
    auto, calls = both(model, tmp_path)
    for _ in range(6):
        agree(auto, calls, x())


def test_what_is_tried_leaves_no_trace_in_the_objects_that_it_is_given(tmp_path):
    auto, calls = both(Network(sets_its_input), tmp_path)
    first, second = (UserDict(x=torch.ones(1, 4), scale=1.0) for _ in range(2))
    for _ in range(5):
        found, expected = auto(first), calls(second)
        assert first["scale"] == second["scale"] and torch.equal(found["b"], expected["b"])


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_region_that_moves_statistics_is_checkpointed_as_in_the_network(tmp_path, reentrant):
    class Model(Network):
        def __init__(self) -> None:
            super().__init__(lambda net, x: net.split(checkpoint(net.inner, net.behind(x), use_reentrant=reentrant)))
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    torch.manual_seed(0)
    model = Model()
    auto = recon_cli.branch(copy.deepcopy(model), manifest_of(model, ["split"], TASKS, tmp_path), "graph")
    batch = x()
    for network in (model, auto):
        for _ in range(2):
            sum(value.sin().sum() for value in network(batch).values()).backward()
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(auto.get_buffer(name), buffer)
    torch.testing.assert_close(auto.get_parameter("inner.0.weight").grad, model.inner[0].weight.grad)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        result = (x @ weight).exp()
        ctx.save_for_backward(x, weight, result)
        return result

    @staticmethod
    def backward(ctx, gradient):
        x, weight, result = ctx.saved_tensors
        gradient = gradient * result
        return (
            gradient @ weight.T if ctx.needs_input_grad[0] else None,
            x.T @ gradient if ctx.needs_input_grad[1] else None,
        )


def multiplies(net, x):
    return net.behind(Product.apply(torch.tanh(x), net.split.weight)).tanh()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_an_autograd_function_is_differentiated_twice(tmp_path):
    auto, calls = both(Network(multiplies).double(), tmp_path)
    found = []
    for branched in (auto, calls):
        batch = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
        output = sum(value.sin().sum() for value in branched(batch).values())
        (gradient,) = torch.autograd.grad(output, batch, create_graph=True)
        gradient.square().sum().backward()
        found.append({name: p.grad for name, p in branched.named_parameters()} | {"input": gradient})
    assert auto.engine.name == "graph", auto.engine.reason
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_an_autograd_function_of_a_copy_that_trains_gives_a_gradient_though_the_first_is_frozen(tmp_path):
    auto, calls = both(Network(multiplies), tmp_path)
    for branched in (auto, calls):
        branched.get_submodule("split.tasks.a").requires_grad_(requires_grad=False)
    same_gradients(auto, calls, x())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_what_an_autograd_function_saves_is_freed_with_the_outputs(tmp_path):
    auto, _ = both(Network(multiplies), tmp_path)
    batch = x()
    auto(batch)
    gc.collect()
    gc.disable()
    try:
        output = auto(batch)
        saved = [weakref.ref(node) for node in functions_behind(output["b"]) if hasattr(node, "saved_tensors")]
        assert saved
        del output
        assert not any(reference() for reference in saved)
    finally:
        gc.enable()


def functions_behind(tensor: torch.Tensor) -> list[Any]:
    found, pending = [], [tensor.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found.append(node)
            pending.extend(following for following, _ in node.next_functions)
    return found


def test_inputs_that_lie_in_memory_in_other_ways(tmp_path):
    for batch in (torch.rand(6, 8)[::2, ::2], torch.rand(1, 4).expand(3, 4), nn.Parameter(x()), x(0)):
        (folder := tmp_path / str(len(list(tmp_path.iterdir())))).mkdir()
        auto, calls = both(Network(plain), folder)
        agree(auto, calls, batch)
        agree(auto, calls, batch)
        assert auto.engine.name == "graph"


def test_many_graphs_do_not_end_in_an_error(tmp_path, capfd):
    auto, calls = both(Network(plain), tmp_path)
    for rows in range(1, 10):
        agree(auto, calls, x(rows))
    for parameter in auto.parameters():
        parameter.requires_grad_(requires_grad=False)
        agree(auto, calls, x())
    assert not capfd.readouterr().err


def test_code_that_recovers_from_errors_does_so(tmp_path):
    def inverts(net, x):
        try:
            return net.split(torch.linalg.inv(x))
        except RuntimeError:
            return net.split(x)

    auto, calls = both(Network(inverts), tmp_path)
    agree(auto, calls, torch.eye(4))
    agree(auto, calls, torch.zeros(4, 4))
    assert auto.engine.name == "graph"


def test_threads_run_it_at_the_same_time(tmp_path):
    auto, calls = both(Network(plain), tmp_path)
    batch = x()
    expected = calls(batch)
    for task in TASKS:
        auto(batch, tasks=[task])

    def wrong(task: str) -> int:
        return sum(not torch.equal(auto(batch, tasks=[task])[task], expected[task]) for _ in range(100))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(wrong, TASKS * 2)) == 0
    finally:
        sys.setswitchinterval(interval)


def test_the_last_of_several_threads_switches_the_compiler_on_again(tmp_path):
    graph = recon_cli.branch(Network(plain), manifest_of(Network(plain), ["split"], TASKS, tmp_path), "graph")
    first, second = ExitStack(), ExitStack()
    for thread in (first, second):
        thread.enter_context(uncompiled())
    first.close()
    with pytest.raises(ReconError, match="switched off"):
        graph(x())
    second.close()
    assert graph(x()).keys() == set(TASKS)


def test_a_network_that_is_dropped_is_freed(tmp_path):
    auto, _ = both(Network(plain), tmp_path)
    auto(x())
    left = [weakref.ref(auto), weakref.ref(auto.get_parameter("split.tasks.b.weight"))]
    del auto
    gc.collect()
    assert all(reference() is None for reference in left)


@pytest.mark.parametrize("setting", ["install_free_tensors", "prepare_freezing"])
def test_settings_of_the_compiler_do_not_mix_the_tasks_up(tmp_path, setting):
    auto, calls = both(Network(plain), tmp_path)
    with torch._dynamo.config.patch({setting: True}):
        agree(auto, calls, x())


def test_a_trace_of_torchscript_does_not_end_the_engine(tmp_path):
    auto, calls = both(Network(plain), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(auto, (x(),), strict=False, check_trace=False)
    batch = x()
    assert torch.equal(traced(batch)["b"], calls(batch)["b"])
    assert auto.engine.name == "graph"
