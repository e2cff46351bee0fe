"""The engines against each other, and against one separate network per task whose shared tensors are one."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import recon_cli
from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.requests import SelectionRequest, SplitRequest
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.branching.split import plan_split
from recon_cli.errors import ReconError
from recon_cli.layers.discovery import discover_layers
from recon_cli.outputs import output_of
from tests.branching.catalogue import CATALOGUE, Bottleneck, Heads, sequential
from tests.branching.test_module import loss_of, manifest_of

WHERE = ("early", "middle", "late", "random")


LEFT_TO_CALLS = {"decisions from data": "cannot be traced"}
"""Networks of the catalogue that the engine `graph` leaves to `calls`, with the reason; it runs all others."""


def shared_layers(model: nn.Module, tasks: tuple[str, ...], inputs: tuple[Any, ...]) -> list[str]:
    """The layers that every task's loss reaches, each with its other names, as `--layers` takes them."""
    reached = []
    for task in tasks:
        model.zero_grad(set_to_none=True)
        loss_of(model(*inputs), tasks, task).backward()
        reached.append({name for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad(set_to_none=True)
    common = set.intersection(*reached)
    return [
        ",".join((layer.name, *layer.aliases))
        for layer in discover_layers(model)
        if any(name in common for name in layer.parameters)
    ]


def chosen(layers: list[str], where: str) -> list[str]:
    if where == "random":
        layers = random.Random(len(layers)).sample(layers, min(3, len(layers)))
    else:
        layers = [layers[{"early": 0, "middle": len(layers) // 2, "late": -1}[where]]]
    return ",".join(layers).split(",")


@pytest.fixture(params=[(name, where) for name in CATALOGUE for where in WHERE], ids=lambda p: f"{p[0]}: {p[1]}")
def case(request, tmp_path):
    """A network, its tasks, its inputs, and the manifest of a split of it."""
    name, where = request.param
    entry = CATALOGUE[name]
    torch.manual_seed(2)
    model = entry.make().double()
    inputs = entry.inputs()
    layers = chosen(shared_layers(copy.deepcopy(model), entry.tasks, inputs), where)
    return model, entry.tasks, inputs, manifest_of(model, layers, entry.tasks, tmp_path)


def separate_networks(model: nn.Module, branched: BranchedModel, manifest: Manifest) -> dict[str, nn.Module]:
    """A network for each task, with the values that the task has in the branched network."""
    state = branched.state_dict()
    layers = {name: layer for layer in manifest.layers for name in (layer.name, *layer.aliases)}
    found = {}
    for task in manifest.tasks:
        own = copy.deepcopy(model)
        values = own.state_dict()
        with torch.no_grad():
            for record in manifest.tensors:
                place = record.key
                if record.copies is not None:
                    owner = max((n for n in layers if f"{record.key}.".startswith(f"{n}.")), key=len)
                    place = record.copies[layers[owner].branch_of(task)]
                values[record.key].copy_(state[place])
        found[task] = own
    return found


def move_apart(branched: BranchedModel) -> None:
    """Give every copy of a split layer other values."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in branched.named_parameters():
            if ".tasks." in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def gradients(branched: BranchedModel, tasks: tuple[str, ...], inputs: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    branched.zero_grad(set_to_none=True)
    output = branched(*inputs)
    sum(loss_of(output, tasks, task) for task in tasks).backward()
    return {name: p.grad.clone() for name, p in branched.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_all_engines_agree_with_separate_networks(case):
    model, tasks, inputs, manifest = case
    model.eval()
    calls = recon_cli.branch(copy.deepcopy(model), manifest, "calls")
    passes = recon_cli.branch(copy.deepcopy(model), manifest, "passes")
    auto = recon_cli.branch(copy.deepcopy(model), manifest)
    expected = model(*inputs)
    for branched in (auto, calls, passes):
        output = branched(*inputs)
        for task in tasks:
            assert torch.equal(output_of(output, tasks, task), output_of(expected, tasks, task))
    move_apart(calls)
    passes.load_state_dict(calls.state_dict())
    auto.load_state_dict(calls.state_dict())
    separate = separate_networks(model, calls, manifest)
    for branched in (auto, calls, passes):
        output = branched(*inputs)
        for task in tasks:
            assert torch.equal(output_of(output, tasks, task), output_of(separate[task](*inputs), tasks, task))
    expected_gradients: dict[str, torch.Tensor] = {}
    for task in tasks:
        own = separate[task]
        loss_of(own(*inputs), tasks, task).backward()
        for record in manifest.tensors:
            grad = dict(own.named_parameters(remove_duplicate=False)).get(record.key)
            grad = None if grad is None else grad.grad
            if grad is not None:
                place = (
                    record.key
                    if record.copies is None
                    else next(name for id, name in record.copies.items() if id == task)
                )
                expected_gradients[place] = expected_gradients.get(place, 0) + grad
    for branched in (auto, calls, passes):
        for name, found in gradients(branched, tasks, inputs).items():
            torch.testing.assert_close(found, expected_gradients[name], rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("where", ["early", "late"])
def test_the_graph_runs_every_network_but_those_that_cannot_be_traced(tmp_path, name, where):
    entry = CATALOGUE[name]
    model = entry.make().double().train()
    inputs = entry.inputs()
    layers = chosen(shared_layers(copy.deepcopy(model), entry.tasks, inputs), where)
    branched = recon_cli.branch(model, manifest_of(model, layers, entry.tasks, tmp_path))
    branched(*inputs)
    if name in LEFT_TO_CALLS:
        assert branched.engine.name == "calls" and LEFT_TO_CALLS[name] in branched.engine.reason
    else:
        assert branched.engine.name == "graph", branched.engine.reason


def test_training_with_calls_is_training_with_passes(case):
    model, tasks, inputs, manifest = case
    model.train()
    calls = recon_cli.branch(copy.deepcopy(model), manifest, "calls")
    passes = recon_cli.branch(copy.deepcopy(model), manifest, "passes")
    move_apart(calls)
    passes.load_state_dict(calls.state_dict())
    for _ in range(2):
        found, expected = gradients(calls, tasks, inputs), gradients(passes, tasks, inputs)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)
        for branched in (calls, passes):
            with torch.no_grad():
                for parameter in branched.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.01 * parameter.grad)


def test_a_write_of_one_task_into_what_the_others_read_ends_the_sharing(tmp_path):
    class Model(nn.Module):
        """A view of what is shared sees what a split layer gives."""

        def __init__(self) -> None:
            super().__init__()
            self.split, self.norm, self.out = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x):
            h = self.norm(x)
            view = h[:, :2]
            h += self.split(x)
            return {"a": self.out(h), "b": view.sum(1)}

    torch.manual_seed(0)
    model = Model().double()
    manifest = manifest_of(model, ["split"], ("a", "b"), tmp_path)
    x = torch.rand(4, 3, dtype=torch.float64)
    passes = recon_cli.branch(copy.deepcopy(model), manifest, "passes")
    auto = recon_cli.branch(copy.deepcopy(model), manifest)
    expected = passes(x)
    # The graph can be forked where calls cannot be shared.
    with torch.compiler.set_stance("force_eager"), pytest.warns(UserWarning, match="once for every task"):
        found = auto(x)
    assert auto.engine.name == "passes" and "views" in auto.engine.reason
    assert all(torch.equal(found[task], expected[task]) for task in "ab")
    for name, value in passes.state_dict().items():
        assert torch.equal(auto.state_dict()[name], value), name
    with pytest.raises(ReconError, match="engine `calls`"):
        recon_cli.branch(model, manifest, "calls")(x)


class Executed(TorchDispatchMode):
    """Counts what is really computed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += self._name in str(func)
        return func(*args, **(kwargs or {}))


def executed(branched: nn.Module, *args: Any, op: str = "aten.convolution", **kwargs: Any) -> int:
    with Executed(op) as counted:
        branched(*args, **kwargs)
    return counted.count


def resnet(tasks: tuple[str, ...] = ("a", "b")) -> nn.Module:
    return Heads(sequential(nn.Conv2d(1, 8, 3), Bottleneck(8, 2), Bottleneck(8, 2)), 8, tasks)


@pytest.mark.parametrize(
    ("layer", "convolutions"),
    # Nine in all: the first, and four in each block, of which `down` is not behind the others.
    [
        ("trunk.0", 18),
        ("trunk.1.conv1", 9 + 2 + 1 + 4),
        ("trunk.2.conv3", 10),
        ("trunk.2.down", 10),
        ("trunk.2.bn1", 11),
    ],
)
def test_what_the_tasks_share_is_computed_once(tmp_path, layer, convolutions):
    model = resnet().eval()
    x = torch.rand(2, 1, 8, 8)
    branched = recon_cli.branch(model, manifest_of(model, [layer], ("a", "b"), tmp_path))
    assert executed(model, x) == 9
    assert executed(branched, x) == convolutions
    assert executed(branched, x, tasks=["b"]) == 9


def test_tasks_that_share_a_branch_part_where_their_branches_do(tmp_path):
    model = resnet(("a", "b", "c")).eval()
    manifest = manifest_of(model, ["trunk.1.conv3", "trunk.2.conv3"], ("a", "b", "c"), tmp_path)
    branched = recon_cli.branch(model, grouped(manifest))
    x = torch.rand(2, 1, 8, 8)
    expected = model(x)
    assert all(torch.equal(value, expected[task]) for task, value in branched(x).items())
    # The first, and all of the first block but its last; that for two branches, and in either stream the second block,
    # whose last one is there for each task.
    assert executed(branched, x) == 1 + 3 + 2 + 2 * 3 + 3


def grouped(manifest: Manifest) -> Manifest:
    """The first layer with a branch for two tasks together, the second with one for each."""
    content = manifest.model_dump(mode="json")
    content["layers"][0]["branches"] = [{"id": "a", "tasks": ["a", "b"]}, {"id": "c", "tasks": ["c"]}]
    for record in content["tensors"]:
        if record["key"].startswith("trunk.1.conv3."):
            del record["copies"]["b"]
    return Manifest.model_validate_json(json.dumps(content))


def test_dropout_draws_one_mask_in_the_trunk_and_one_for_each_stream_behind(tmp_path):
    model = Heads(nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 64), nn.Dropout(0.5)), 64).train()
    branched = recon_cli.branch(model, manifest_of(model, ["trunk.1"], ("a", "b"), tmp_path))
    drawn = (
        executed(model, torch.rand(2, 64), op="aten.bernoulli_"),
        executed(branched, torch.rand(2, 64), op="aten.bernoulli_"),
    )
    assert drawn == (2, 3)


def test_a_norm_of_the_trunk_is_updated_once_and_one_behind_a_split_by_every_stream(tmp_path):
    model = resnet().train()
    x = torch.rand(4, 1, 8, 8)
    plain = copy.deepcopy(model)
    branched = recon_cli.branch(model, manifest_of(model, ["trunk.1.conv3"], ("a", "b"), tmp_path))
    plain(x), branched(x)
    state, expected = branched.state_dict(), plain.state_dict()
    for name in ("trunk.1.bn1", "trunk.1.bn2"):
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(state[f"{name}.{buffer}"], expected[f"{name}.{buffer}"])
    # A momentum of 0.1, from 0: once 0.1 of the batch's mean, twice 0.19.
    torch.testing.assert_close(state["trunk.1.bn3.running_mean"], 1.9 * expected["trunk.1.bn3.running_mean"])


def test_inference_mode_and_autocast_give_what_the_network_gives(tmp_path):
    model = resnet().eval()
    x = torch.rand(2, 1, 8, 8)
    branched = recon_cli.branch(model, manifest_of(model, ["trunk.2.conv1"], ("a", "b"), tmp_path))
    expected = model(x)
    with torch.inference_mode():
        found = branched(torch.rand_like(x).copy_(x))
        assert executed(branched, x) == 12
    assert all(torch.equal(found[task], expected[task]) for task in "ab")
    with torch.autocast("cpu", torch.bfloat16):
        found, mixed = branched(x), model(x)
    assert all(torch.equal(found[task], mixed[task]) for task in "ab")
    assert found["a"].dtype == torch.bfloat16


def test_some_tasks_are_computed_alone(tmp_path):
    model = CATALOGUE["a tuple"].make().eval()
    tasks = ("left", "right")
    x = torch.rand(2, 1, 12, 12)
    branched = recon_cli.branch(model, manifest_of(model, ["norm"], tasks, tmp_path))
    expected = model(x)
    found = branched(x, tasks=["right"])
    assert list(found) == ["right"] and torch.equal(found["right"], expected[1])
    both = branched(x, tasks=("right", "left"))
    assert list(both) == ["right", "left"] and torch.equal(both["left"], expected[0])
    for wrong in (["rihgt"], []):
        with pytest.raises(ReconError, match="no task"):
            branched(x, tasks=wrong)
    with pytest.raises(ReconError, match="no engine .fast."):
        recon_cli.branch(model, manifest_of(model, ["norm"], tasks, tmp_path), "fast")


class NormsInHeads(nn.Module):
    """Each head has a norm, whose statistics are those of its own task's features."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: self.head() for task in "ab"})

    def head(self):
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x):
        x = self.trunk(x)
        return {task: head(x) for task, head in self.heads.items()}


@pytest.mark.parametrize("engine", ["calls", "passes"])
def test_a_norm_in_a_head_sees_the_features_of_its_own_task_alone(tmp_path, engine):
    torch.manual_seed(4)
    model = NormsInHeads().double().train()
    x = torch.rand(6, 4, dtype=torch.float64)
    branched = recon_cli.branch(copy.deepcopy(model), manifest_of(model, ["trunk"], ("a", "b"), tmp_path), engine)
    move_apart(branched)
    separate = separate_networks(model, branched, Manifest.read(tmp_path / "branched.manifest.json"))
    for _ in range(2):
        gradients(branched, ("a", "b"), (x,))
        for network in separate.values():
            network(x)
    for task, network in separate.items():
        for buffer in ("running_mean", "running_var"):
            name = f"heads.{task}.2.{buffer}"
            torch.testing.assert_close(branched.state_dict()[name], network.state_dict()[name])


@pytest.mark.parametrize("engine", ["calls", "passes"])
def test_heads_of_other_tasks_are_left_out_once_it_is_known_that_nobody_needs_them(tmp_path, engine):
    tasks = ("a", "b", "c")
    model = resnet(tasks)
    x = torch.rand(4, 1, 8, 8)
    branched = recon_cli.branch(model, manifest_of(model, ["trunk.2.conv3"], tasks, tmp_path), engine)
    assert executed(branched, x, op="aten.addmm") == 9
    assert executed(branched, x, op="aten.addmm") == 3
    # Other shapes, modes and tasks are learned by themselves.
    assert executed(branched, x[:2], op="aten.addmm") == 9
    assert executed(branched.eval(), x, op="aten.addmm") == 9
    assert executed(copy.deepcopy(branched), x, op="aten.addmm") == 9
    assert executed(branched, x, op="aten.addmm") == 3


class Watching(nn.Module):
    """Does with what a head gives what is more than to return it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.trunk = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in "ab"})
        self.register_buffer("average", torch.zeros(()))
        self.kept: list[torch.Tensor] = []

    def forward(self, x):
        x = self.trunk(x)
        outputs = {task: head(x) for task, head in self.heads.items()}
        if self.way == "decides from it" and outputs["a"].mean().item() > 0:
            outputs["b"] = outputs["b"] + 1
        if self.way == "keeps it":
            self.kept.append(outputs["a"])
        if self.way == "adds it to another output":
            outputs["extra"] = outputs["a"] + outputs["b"]
        if self.way == "averages it":
            self.average.mul_(0.9).add_(x.detach().mean(), alpha=0.1)
        if self.way == "decides by chance" and torch.rand(()).item() > 0.5:
            outputs["b"] = outputs["b"] * outputs["a"]
        return outputs


class Sometimes(nn.Module):
    """A dropout that a flag of the network's own turns on."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
        self.is_noisy = False

    def forward(self, x):
        x = nn.functional.dropout(self.trunk(x), 0.5, self.is_noisy)
        return {"a": self.a(x), "b": self.b(x)}


def test_a_call_that_did_nothing_once_is_not_left_out(tmp_path):
    model = Sometimes()
    branched = recon_cli.branch(model, manifest_of(model, ["trunk"], ("a", "b"), tmp_path))
    x = torch.rand(64, 4)
    before = [branched(x)["b"] for _ in range(3)][-1]
    for view in branched._views.values():
        view.is_noisy = True
    assert not torch.equal(branched(x)["b"], before)


WAYS = (
    "decides from it", "keeps it", "adds it to another output", "averages it", "decides by chance",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_is_looked_at_is_never_left_out(tmp_path, way):
    torch.manual_seed(5)
    model = Watching(way).double()
    manifest = manifest_of(model, ["trunk"], ("a", "b"), tmp_path)
    calls = recon_cli.branch(copy.deepcopy(model), manifest)
    plain = recon_cli.branch(copy.deepcopy(model), manifest, "passes")
    move_apart(calls)
    plain.load_state_dict(calls.state_dict())
    if way == "averages it":
        with pytest.warns(UserWarning, match="once for every task"):
            calls(torch.randn(3, 4, dtype=torch.float64))
        calls.average.zero_()
    for number in range(12):
        x = torch.randn(3, 4, dtype=torch.float64)
        # Nothing is left out by one that has learned nothing.
        plain._needless.clear()
        outputs = []
        for branched in (calls, plain):
            torch.manual_seed(number)
            outputs.append(branched(x))
        if way != "decides by chance":
            # There the passes of one engine draw other numbers than those of the other.
            for name, value in outputs[1].items():
                assert torch.equal(outputs[0][name], value), name
        assert all(torch.isfinite(value).all() for value in outputs[0].values())
    assert torch.equal(calls.state_dict()["average"], plain.state_dict()["average"])
    if way == "averages it":
        assert calls.state_dict()["average"] != 0
    kept = [value for view in calls._views.values() for value in view.kept]
    assert all(torch.isfinite(value).all() for value in kept)


def test_the_cost_of_a_split_is_counted_exactly(tmp_path):
    tasks = ("a", "b", "c")
    model = Heads(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 16)), 16, tasks).train()
    x = torch.rand(5, 4)
    first, second, heads = 5 * 4 * 8 * 2, 5 * 8 * 16 * 2, 5 * 16 * 2 * 2
    state = torch.get_rng_state()
    for layers, branched in (
        (["trunk.0", "trunk.2"], 3 * (first + second + heads)),
        (["trunk.2"], first + 3 * (second + heads)),
    ):
        cost = recon_cli.branching_cost(model, manifest_of(model, layers, tasks, tmp_path), x)
        assert (cost.shared, cost.branched) == (first + second + 3 * heads, branched)
        assert cost.ratio == branched / cost.shared
        assert cost.by_layer["trunk.2"] == first + 3 * second + 3 * heads
        assert cost.added_by("trunk.2") == 2 * second / cost.shared
    assert torch.equal(torch.get_rng_state(), state) and model.training
    plan = plan_split(SplitRequest(tmp_path / "model.pt", SelectionRequest(layers=("trunk.2",)), None, tasks)).document
    plan.write(tmp_path / "plan.json")
    for split in (plan, tmp_path / "plan.json", tmp_path / "branched.manifest.json", tmp_path / "branched.safetensors"):
        assert recon_cli.branching_cost(model, split, x) == cost
    with pytest.raises(ReconError, match="recon.ranking"):
        (tmp_path / "other.json").write_text('{"schema": "recon.ranking/1"}')
        recon_cli.branching_cost(model, tmp_path / "other.json", x)


def test_a_layer_with_a_shortcut_is_counted_in_full(tmp_path):
    model = CATALOGUE["transformer"].make()
    manifest = manifest_of(model, ["trunk.1.linear2"], ("a", "b"), tmp_path)
    cost = recon_cli.branching_cost(model, manifest, torch.randint(0, 11, (3, 5)))
    assert 1 < cost.ratio < 1.5
