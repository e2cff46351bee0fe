"""Networks that do to what several passes share what a call does not tell: writes, hooks, gradients inside."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import recon_cli
from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.errors import ReconError
from recon_cli.outputs import output_of
from tests.branching.test_engines import gradients, move_apart, separate_networks
from tests.branching.test_module import loss_of, manifest_of

TASKS = ("a", "b")


class Network(nn.Module):
    """A trunk with a layer before the split layer, one behind it, and whatever is done between."""

    def __init__(self, trunk: Callable[[Network, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.before, self.split, self.behind = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})
        self.trunk = trunk

    def forward(self, x: torch.Tensor) -> Any:
        features = self.trunk(self, x)
        return {task: head(features) for task, head in self.heads.items()}


@pytest.fixture(params=["traced", "untraced"], autouse=True)
def engines_allowed(request):
    """The engines that `auto` may name besides the one that a test expects."""
    # A network whose code is not traced now may be traced later.
    with torch.compiler.set_stance("default" if request.param == "traced" else "force_eager"):
        yield {"graph"}


def inputs() -> torch.Tensor:
    return torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def check(model: nn.Module, folder: Path, layers: tuple[str, ...] = ("split",)) -> BranchedModel:
    """Compare outputs and gradients with those of separate networks, twice; returns the branched network."""
    torch.manual_seed(0)
    model = model.double()
    manifest = manifest_of(model, list(layers), TASKS, folder)
    branched = recon_cli.branch(copy.deepcopy(model), manifest)
    move_apart(branched)
    expected: dict[str, torch.Tensor] = {}
    outputs = {}
    for task, network in separate_networks(model, branched, Manifest.read(folder / "branched.manifest.json")).items():
        output = network(inputs())
        outputs[task] = output_of(output, TASKS, task)
        loss = loss_of(output, TASKS, task)
        loss.backward() if loss.requires_grad else None
        for record in manifest.tensors:
            gradient = network.get_parameter(record.key).grad
            if gradient is not None:
                place = record.key if record.copies is None else record.copies[task]
                expected[place] = expected.get(place, 0) + gradient
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the branched model is run once for every task")
        for _ in range(2):
            found = branched(inputs())
            for task in TASKS:
                torch.testing.assert_close(output_of(found, TASKS, task), outputs[task], rtol=1e-12, atol=1e-12)
            if expected:
                found_gradients = gradients(branched, TASKS, (inputs(),))
                assert found_gradients.keys() == expected.keys()
                for name, value in expected.items():
                    torch.testing.assert_close(found_gradients[name], value, rtol=1e-10, atol=1e-12)
    return branched


def reads_then_writes(net, x):
    h = net.before(x)
    y = net.split(x) + h
    h.mul_(2)
    return y + h


def reads_through_data(net, x):
    h = net.before(x)
    y = net.split(x) + h
    h.data.mul_(2)
    return y + h


def reads_a_number(net, x):
    h = net.before(x)
    number = h[0, 0].item()
    h.mul_(2)
    return net.split(x) * number + h


@pytest.mark.parametrize("trunk", [reads_then_writes, reads_through_data, reads_a_number])
def test_what_is_written_over_later_is_read_as_it_was(tmp_path, engines_allowed, trunk):
    branched = check(Network(trunk), tmp_path)
    assert branched.engine.name in {"passes"} | engines_allowed
    assert branched.engine.name == "graph" or "written over later" in branched.engine.reason


def writes_beside_a_view(net, x):
    h = net.before(x)
    view = h.view(-1)
    h.add_(net.split(x))
    return net.behind(h) + view.sum()


def catches(net, x):
    features = net.behind(x)
    with contextlib.suppress(Exception):
        features = writes_beside_a_view(net, x)
    return features


def wraps(net, x):
    try:
        return writes_beside_a_view(net, x)
    except Exception as error:
        raise ValueError("there are no features") from error


@pytest.mark.parametrize("trunk", [catches, wraps])
def test_a_network_that_catches_exceptions_does_not_hide_that_a_call_cannot_be_shared(tmp_path, engines_allowed, trunk):
    assert check(Network(trunk), tmp_path).engine.name in {"passes"} | engines_allowed


def reverses_gradients(net, x):
    h = net.before(x)
    h.register_hook(lambda gradient: -gradient)
    return net.split(h)


def reverses_gradients_further_down(net, x):
    h = torch.relu_(net.before(x))
    h.grad_fn.register_prehook(lambda gradients: (-gradients[0],))
    return net.split(h)


@pytest.mark.parametrize("trunk", [reverses_gradients, reverses_gradients_further_down])
def test_a_hook_on_what_is_shared_acts_once_on_every_gradient(tmp_path, engines_allowed, trunk):
    assert check(Network(trunk), tmp_path).engine.name in {"calls"} | engines_allowed


def replaces_data(net, x):
    h = net.before(x)
    y = net.split(x) + h
    h.data = h.data * 2
    return y + h


def writes_from_numpy(net, x):
    h = net.before(x).detach()
    array = h.numpy()
    array += 1
    return net.split(h)


@pytest.mark.parametrize("trunk", [replaces_data, writes_from_numpy])
def test_what_is_changed_without_a_call_is_not_shared(tmp_path, engines_allowed, trunk):
    assert check(Network(trunk), tmp_path).engine.name in {"calls"} | engines_allowed


def differentiates(net, x):
    x = x.requires_grad_()
    h = net.split(torch.tanh(net.before(x)))
    (gradient,) = torch.autograd.grad(h.square().sum(), x)
    return net.behind(x) * gradient.sum()


def differentiates_twice(net, x):
    x = x.requires_grad_()
    h = net.split(torch.tanh(net.before(x)))
    (gradient,) = torch.autograd.grad(h.square().sum(), x, create_graph=True)
    return net.behind(h) * gradient.square().sum()


@pytest.mark.parametrize("trunk", [differentiates, differentiates_twice])
def test_a_network_can_differentiate_through_what_is_shared(tmp_path, engines_allowed, trunk):
    assert check(Network(trunk), tmp_path).engine.name in {"calls"} | engines_allowed


def pushes_forward(net, x):
    value, slope = torch.func.jvp(lambda z: torch.tanh(net.before.weight * 2) @ z.T, (x,), (x + 1,))
    return net.split((value + slope).T)


def maps(net, x):
    def one(row, other):
        return torch.tanh(net.before.weight * 2) @ row + torch.tanh(net.split.weight) @ other

    return torch.func.vmap(one)(net.before(x), x)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("trunk", [pushes_forward, maps])
def test_a_transform_inside_of_a_network_is_run_by_every_pass(tmp_path, engines_allowed, trunk):
    assert check(Network(trunk), tmp_path).engine.name in {"calls"} | engines_allowed


def writes_in_inference_mode(net, x):
    with torch.inference_mode():
        h = net.before(x)
        y = net.split(x) + h
        h.mul_(2)
        y += h
    return net.behind(y.clone())


def test_writes_in_inference_mode_are_seen(tmp_path, engines_allowed):
    assert check(Network(writes_in_inference_mode), tmp_path).engine.name in {"passes"} | engines_allowed


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


def adds_for_a_function(net, x):
    h = net.before(x)
    h.add_(net.split(x))
    return Square.apply(h)


def adds_for_checkpointing(net, x):
    h = net.before(x)
    h.add_(net.split(x))
    return checkpoint(lambda h: torch.tanh(net.behind(h)), h, use_reentrant=False)


def adds_for_reentrant_checkpointing(net, x):
    h = net.before(x)
    h.add_(net.split(x))
    return checkpoint(net.behind, h, use_reentrant=True)


def adds_without_a_gradient(net, x):
    h = net.before(x)
    with torch.no_grad():
        h.add_(net.split(x))
    return net.behind(h)


def adds_behind_a_use(net, x):
    h = net.before(x)
    y = net.behind(h * 2)
    h.mul_(2)
    h += net.split(x)
    z = torch.tanh(h)
    h.sub_(z.detach())
    return y + h


def adds_to_the_input(net, x):
    y = net.before(x)
    x.add_(y.detach())
    x.add_(net.split(y).detach())
    return net.behind(x)


ADDING = [
    adds_for_a_function, adds_for_checkpointing, adds_for_reentrant_checkpointing, adds_without_a_gradient,
    adds_behind_a_use, adds_to_the_input,
]  # fmt: skip


@pytest.mark.parametrize("trunk", ADDING)
def test_what_a_pass_writes_to_is_its_own(tmp_path, engines_allowed, trunk):
    assert check(Network(trunk), tmp_path).engine.name in {"calls"} | engines_allowed


@dataclass
class Outputs:
    a: torch.Tensor
    b: torch.Tensor


class WritesToOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.split, self.heads = nn.Linear(4, 2), nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})

    def forward(self, x: torch.Tensor) -> Outputs:
        outputs = Outputs(**{task: head(x) for task, head in self.heads.items()})
        outputs.a.add_(self.split(x))
        outputs.b.mul_(2).sub_(self.split(x))
        return outputs


def test_what_was_written_to_is_returned_in_any_form(tmp_path, engines_allowed):
    assert check(WritesToOutputs(), tmp_path).engine.name in {"calls"} | engines_allowed


@pytest.mark.parametrize("reentrant", [True, False])
def test_dropout_under_checkpointing_has_the_same_mask_forwards_and_backwards(tmp_path, reentrant):
    def trunk(net, x):
        def noisy(h):
            return net.behind(nn.functional.dropout(h, 0.5))

        return net.split(checkpoint(noisy, net.before(x), use_reentrant=reentrant))

    torch.manual_seed(0)
    model = Network(trunk).double()
    branched = recon_cli.branch(model, manifest_of(model, ["split"], TASKS, tmp_path))
    outputs = branched(inputs())
    weight, bias = (branched.get_parameter(f"behind.{name}") for name in ("weight", "bias"))
    for task in TASKS:
        branched.zero_grad()
        outputs[task].sum().backward(retain_graph=True)
        # The output is linear in the weight.
        split = branched.get_submodule(f"split.tasks.{task}")
        rest = branched.get_submodule(f"heads.{task}")(split(bias)).sum() * len(inputs())
        torch.testing.assert_close((weight * weight.grad).sum() + rest, outputs[task].sum())


class Counts(nn.Module):
    """Puts another tensor in its buffer's place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("number", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.number = self.number + 1
        return x * self.number


def test_a_run_that_is_begun_anew_counts_as_one(tmp_path):
    class Model(Network):
        def __init__(self) -> None:
            super().__init__(lambda net, x: writes_beside_a_view(net, net.counts(x)))
            self.counts = Counts()

    model = Model().double()
    manifest = manifest_of(model, ["split"], TASKS, tmp_path)
    passes, auto = (recon_cli.branch(copy.deepcopy(model), manifest, engine) for engine in ("passes", "auto"))
    expected = passes(inputs())
    with pytest.warns(UserWarning, match="once for every task"):
        found = auto(inputs())
    assert auto.counts.number == passes.counts.number == 2
    assert all(torch.equal(found[task], expected[task]) for task in TASKS)


def test_nothing_is_left_out_where_a_run_could_not_be_begun_anew(tmp_path):
    class Model(Network):
        """Doubles its input; when it is negative, one output needs the other."""

        def forward(self, x: torch.Tensor) -> Any:
            x.mul_(2)
            outputs = super().forward(x)
            return outputs if x[0, 0] > 0 else {"a": outputs["a"], "b": outputs["b"] + outputs["a"]}

    model = Model(lambda net, x: net.split(x)).double()
    branched = recon_cli.branch(copy.deepcopy(model), manifest_of(model, ["split"], TASKS, tmp_path))
    for sign in (1, 1, -1):
        found, expected = branched(sign * inputs()), model(sign * inputs())
        assert all(torch.equal(found[task], expected[task]) for task in TASKS)


class NormedHeads(nn.Module):
    """A layer, and a norm in every head."""

    def __init__(self, momentum: float | None, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: self.head(momentum) for task in tasks})

    def head(self, momentum: float | None) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.first(x)
        return {task: head(x) for task, head in self.heads.items()}


def together(manifest: Manifest, *tasks: str) -> Manifest:
    """The only split layer with one branch for these tasks together, and one for each other."""
    content = manifest.model_dump(mode="json")
    branches = {task: [task] for task in manifest.tasks if task not in tasks[1:]} | {tasks[0]: list(tasks)}
    content["layers"][0]["branches"] = [{"id": first, "tasks": held} for first, held in branches.items()]
    for record in content["tensors"]:
        for task in tasks[1:] if record.get("copies") else ():
            del record["copies"][task]
    return Manifest.model_validate_json(json.dumps(content))


@pytest.mark.parametrize("engine", ["calls", "passes"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("group", ["ab", "ac", "bc", "a"])
def test_a_norm_in_a_head_counts_its_own_tasks_batches_alone(tmp_path, engine, momentum, group):
    torch.manual_seed(0)
    tasks = ("a", "b", "c")
    model = NormedHeads(momentum, tasks).double().train()
    manifest = together(manifest_of(model, ["first"], tasks, tmp_path), *group)
    branched = recon_cli.branch(copy.deepcopy(model), manifest, engine)
    move_apart(branched)
    separate = separate_networks(model, branched, manifest)
    for number in range(3):
        gradients(branched, tasks, (inputs() + number,))
        for network in separate.values():
            network(inputs() + number)
    for task, network in separate.items():
        for buffer, value in network.heads[task][1].named_buffers():
            torch.testing.assert_close(branched.state_dict()[f"heads.{task}.1.{buffer}"], value)


def test_an_average_over_all_batches_is_one_over_those_of_all_streams(tmp_path):
    class Model(Network):
        def __init__(self) -> None:
            super().__init__(lambda net, x: net.norm(net.split(x)))
            self.norm = nn.BatchNorm1d(4, momentum=None)

    torch.manual_seed(0)
    model = Model().double().train()
    branched = recon_cli.branch(model, manifest_of(model, ["split"], TASKS, tmp_path))
    move_apart(branched)
    means = []
    with pytest.warns(UserWarning, match="counts the batches once"):
        for number in range(3):
            branched(inputs() + number)
            means += [branched.get_submodule(f"split.tasks.{task}")(inputs() + number).mean(0) for task in TASKS]
    torch.testing.assert_close(branched.norm.running_mean, torch.stack(means).mean(0))


def test_a_part_that_is_compiled_by_itself_is_run_as_it_was_written(tmp_path):
    def refuse(graph, inputs):
        raise AssertionError("it was compiled")

    double = torch.compile(lambda x: x.mul_(2), backend=refuse)

    def trunk(net, x):
        h = net.before(x)
        double(h)
        return net.split(h)

    model = Network(trunk).double()
    plain = Network(lambda net, x: net.split(net.before(x) * 2)).double()
    plain.load_state_dict(model.state_dict())
    expected = plain(inputs())
    branched = recon_cli.branch(model, manifest_of(model, ["split"], TASKS, tmp_path))
    found = branched(inputs())
    assert all(torch.equal(found[task], expected[task]) for task in TASKS)


@pytest.mark.parametrize("engine", ["calls", "passes"])
def test_a_condition_that_torch_traces_is_run(tmp_path, engine):
    def trunk(net, x):
        h = net.split(net.before(x))
        return torch.cond(h.sum() > 0, lambda h: 2 * h, lambda h: h - 1, (h,))

    torch.manual_seed(0)
    model = Network(trunk).double()
    branched = recon_cli.branch(model, manifest_of(model, ["split"], TASKS, tmp_path), engine)
    with torch.no_grad():
        expected = model(inputs())
        for _ in range(3):
            assert all(torch.equal(value, expected[task]) for task, value in branched(inputs()).items())


@pytest.mark.parametrize("engine", ["calls", "passes"])
def test_a_condition_is_refused_where_it_would_have_no_gradients(tmp_path, engine):
    def trunk(net, x):
        return torch.cond(x.sum() > 0, lambda x: net.split(x), lambda x: net.split(x) * 2, (x,))

    model = Network(trunk).double()
    branched = recon_cli.branch(model, manifest_of(model, ["split"], TASKS, tmp_path), engine)
    with pytest.raises(ReconError, match="torch.cond.*gives no gradients"):
        branched(inputs())


def counts_what_is_positive(net: Network, x: torch.Tensor) -> torch.Tensor:
    return net.split(x) + (net.split(x) > 0).nonzero().shape[0]


def counts_kinds(net: Network, x: torch.Tensor) -> torch.Tensor:
    return net.split(x) + net.split(x).round().unique().numel()


def counts_rows(net: Network, x: torch.Tensor) -> torch.Tensor:
    features = net.split(x)
    return features + features[features[:, 0] > 0].shape[0]


@pytest.mark.parametrize("trunk", [counts_what_is_positive, counts_kinds, counts_rows])
def test_a_shape_that_depends_on_values_is_that_of_the_present_values(tmp_path, trunk):
    model = Network(trunk).double()
    manifest = manifest_of(model, ["split"], TASKS, tmp_path)
    calls, passes = (recon_cli.branch(copy.deepcopy(model), manifest, engine) for engine in ("calls", "passes"))
    for seed in range(4):
        x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found, expected = calls(x), passes(x)
        assert all(torch.equal(found[task], expected[task]) for task in TASKS)


def test_a_network_that_counts_its_runs_is_never_begun_anew(tmp_path):
    def alternates(net: Network, x: torch.Tensor) -> torch.Tensor:
        net.is_odd = not net.is_odd
        return net.split(x) * 2 if net.is_odd else net.split(x)

    model = Network(alternates).double()
    model.is_odd = False
    manifest = manifest_of(model, ["split"], TASKS, tmp_path)
    calls, passes = (recon_cli.branch(copy.deepcopy(model), manifest, engine) for engine in ("calls", "passes"))
    for _ in range(4):
        found, expected = calls(inputs()), passes(inputs())
        assert all(torch.equal(found[task], expected[task]) for task in TASKS)
