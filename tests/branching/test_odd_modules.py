"""Networks whose modules find each other, keep state, or answer in unusual ways."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import recon_cli
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.errors import ReconError
from tests.branching.test_module import manifest_of


class Base(nn.Module):
    """Two layers and two heads; the network's ways of calling them are its subclasses'."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.one, self.two = nn.Linear(3, 2), nn.Linear(3, 2)

    def trunk(self, x):
        return self.b(self.a(x))

    def forward(self, x):
        x = torch.tanh(self.trunk(x))
        return {"one": self.one(x), "two": self.two(x)}


def branched_of(
    model: nn.Module, layers: list[str], folder: Path, tasks=("one", "two"), engine="auto"
) -> BranchedModel:
    return recon_cli.branch(model, manifest_of(model, layers, tasks, folder), engine)


def reached_by(branched: BranchedModel, task: str, x: torch.Tensor | None = None) -> set[str]:
    """The names of the parameters that a task's loss reaches with a gradient that is not zero."""
    branched.zero_grad(set_to_none=True)
    branched(torch.ones(2, 3) if x is None else x)[task].sum().backward()
    return {name for name, p in branched.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@dataclass
class Holder:
    layer: nn.Module

    def run(self, x):
        return self.layer(x)


class Plain:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def run(self, x):
        return self.layer(x)


class Hidden(nn.Module):
    """A module that is registered nowhere."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.inner = [layer]

    def forward(self, x):
        return self.inner[0](x)


def closure_over(layer: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    def call(x):
        return layer(x)

    return call


WAYS: dict[str, Callable[[nn.Module], tuple[object, Callable]]] = {
    "list": lambda a: ([a], lambda held, x: held[0](x)),
    "tuple in a dict": lambda a: ({"k": (a,)}, lambda held, x: held["k"][0](x)),
    "key of a dict": lambda a: ({a: 1}, lambda held, x: next(iter(held))(x)),
    "set": lambda a: ({a}, lambda held, x: next(iter(held))(x)),
    "deque": lambda a: (deque([a]), lambda held, x: held[0](x)),
    "named tuple": lambda a: (namedtuple("N", "layer")(a), lambda held, x: held.layer(x)),
    "bound method": lambda a: (a.forward, lambda held, x: held(x)),
    "partial call": lambda a: (functools.partial(nn.Module.__call__, a), lambda held, x: held(x)),
    "closure": lambda a: (closure_over(a), lambda held, x: held(x)),
    "lambda": lambda a: (lambda x: a(x), lambda held, x: held(x)),
    "namespace": lambda a: (SimpleNamespace(layer=a), lambda held, x: held.layer(x)),
    "dataclass": lambda a: (Holder(a), lambda held, x: held.run(x)),
    "object": lambda a: (Plain(a), lambda held, x: held.run(x)),
    "method of an object": lambda a: (Plain(a).run, lambda held, x: held(x)),
    "weak reference": lambda a: (weakref.ref(a), lambda held, x: held()(x)),
    "hidden module": lambda a: ([Hidden(a)], lambda held, x: held[0](x)),
    "parameter in a list": lambda a: ([a.weight], lambda held, x: nn.functional.linear(x, held[0])),
}


class Sub(nn.Module):
    """A shared module that calls a layer of somebody else's."""

    def __init__(self, held: object, call: Callable) -> None:
        super().__init__()
        self.held, self.call = [held], call
        self.own = nn.Linear(3, 3)

    def forward(self, x):
        return self.own(self.call(self.held[0], x))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", ["a", "b"])
def test_however_a_module_refers_to_a_split_layer_each_task_gets_its_own(tmp_path, way, layer):
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.sub = Sub(*WAYS[way](self.a))

        def trunk(self, x):
            return self.b(self.sub(x))

    branched = branched_of(Model(), [layer], tmp_path)
    for task, other in (("one", "two"), ("two", "one")):
        reached = reached_by(branched, task)
        assert f"{layer}.tasks.{task}.weight" in reached
        assert f"{layer}.tasks.{other}.weight" not in reached
        assert "sub.own.weight" in reached


def test_a_reference_back_to_the_root_leads_to_the_tasks_own_view(tmp_path):
    class Back(nn.Module):
        def __init__(self, root: nn.Module) -> None:
            super().__init__()
            self.root = [root]
            self.w = nn.Linear(3, 3)

        def forward(self, x):
            return self.w(self.root[0].a(x))

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.back = Back(self)

        def trunk(self, x):
            return self.b(self.back(x))

    assert "a.tasks.two.weight" in reached_by(branched_of(Model(), ["a"], tmp_path), "two")


def test_a_split_layer_that_refers_to_a_shared_one_goes_on_sharing_it(tmp_path):
    class Leaf(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = [base]
            self.weight = nn.Parameter(torch.eye(3))

        def forward(self, x):
            return self.base[0](x) @ self.weight

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.leaf = Leaf(self.a)

        def trunk(self, x):
            return self.leaf(x)

    model = Model()
    branched = branched_of(model, ["leaf"], tmp_path)
    for task in ("one", "two"):
        assert {"a.weight", f"leaf.tasks.{task}.weight"} <= reached_by(branched, task)
    assert branched.double()(torch.ones(1, 3).double())["two"].dtype == torch.float64


def test_a_hook_that_is_a_method_of_the_network_writes_to_the_network_that_runs(tmp_path):
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.a.register_forward_hook(self.keep)
            self.seen = None

        def keep(self, module, inputs, output):
            self.seen = output

        def trunk(self, x):
            self.a(x)
            return self.b(self.seen)

    model = Model()
    expected = model(torch.ones(1, 3))
    found = branched_of(model, ["b"], tmp_path)(torch.ones(1, 3))
    assert all(torch.equal(found[task], expected[task]) for task in expected)


def test_plain_state_that_modules_share_stays_shared(tmp_path):
    class Scaled(nn.Module):
        def __init__(self, state: dict) -> None:
            super().__init__()
            self.state = state

        def forward(self, x):
            return x * self.state["scale"]

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.state = {"scale": 1.0}
            self.scaled = Scaled(self.state)
            self.lock = threading.Lock()
            self.last = torch.tanh(self.a(torch.ones(3)))

        def trunk(self, x):
            with self.lock:
                self.state["scale"] = float(x.sum())
            return self.scaled(self.a(x))

    model = Model()
    expected = model(torch.ones(2, 3))
    found = branched_of(model, ["a"], tmp_path)(torch.ones(2, 3))
    assert all(torch.equal(found[task], expected[task]) for task in expected)


def test_weight_normalised_layers_of_the_old_kind_are_branched(tmp_path):
    with pytest.warns(FutureWarning):

        class Model(Base):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.utils.weight_norm(self.a)

        model = Model()
    expected = model(torch.ones(1, 3))
    branched = branched_of(model, ["a"], tmp_path)
    assert torch.equal(branched(torch.ones(1, 3))["two"], expected["two"])
    assert "a.tasks.two.weight_v" in reached_by(branched, "two")


def test_a_parametrised_parameter_of_the_root_is_split(tmp_path):
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(3, 3))
            nn.utils.parametrizations.weight_norm(self, "scale")

        def trunk(self, x):
            return self.a(x) @ self.scale

    model = Model()
    expected = model(torch.ones(1, 3))
    branched = branched_of(model, ["scale"], tmp_path)
    assert torch.allclose(branched(torch.ones(1, 3))["two"], expected["two"])
    assert "parametrizations.scale.original1.tasks.two" in reached_by(branched, "two")


def test_an_input_that_the_network_takes_apart_is_whole_for_every_task(tmp_path):
    class Model(Base):
        def forward(self, batch):
            return super().forward(batch.pop("x"))

    model = Model()
    batch = {"x": torch.ones(1, 3)}
    found = branched_of(model, ["a"], tmp_path)(batch)
    assert set(found) == {"one", "two"}
    assert "x" in batch


def test_an_input_that_the_network_overwrites_is_refused(tmp_path):
    class Model(Base):
        def forward(self, x):
            return super().forward(x.mul_(2))

    branched = branched_of(Model(), ["a"], tmp_path, engine="passes")
    with pytest.raises(ReconError, match="changes its input in place"):
        branched(torch.ones(1, 3))


class WithBlock(Base):
    """A network with a parameter, a buffer and a dropout of its own, around a layer that is split."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
        self.block.register_buffer("offset", torch.zeros(3))
        self.position = nn.Parameter(torch.zeros(3))
        self.register_buffer("cache", None)

    def trunk(self, x):
        self.cache = x.mean(0)
        return self.block(x + self.position) + self.block.offset

    def train(self, mode: bool = True):
        return super().train(mode)


def test_what_is_done_to_a_part_of_the_tree_is_done_to_the_views(tmp_path):
    branched = branched_of(WithBlock(), ["block.0"], tmp_path)
    x = torch.ones(1, 3)
    branched.block.eval()
    before = branched(x)["two"]
    assert torch.equal(before, branched(x)["two"]), "no dropout any more"
    branched.position = nn.Parameter(torch.ones(3))
    assert not torch.equal(branched(x)["two"], before)
    swapped = torch.func.functional_call(branched, {"position": torch.zeros(3)}, (x,))
    assert torch.equal(swapped["two"], before)
    branched.block.offset = torch.ones(3)
    assert not torch.equal(torch.func.functional_call(branched, {"position": torch.zeros(3)}, (x,))["two"], before)
    branched.block.double()
    branched.double()
    assert branched(x.double())["one"].dtype == torch.float64
    branched.one = nn.Linear(3, 7).double()
    assert branched(x.double())["one"].shape == (1, 7)


def test_weights_assigned_from_outside_are_used(tmp_path):
    wrapper = nn.Sequential(branched_of(WithBlock().eval(), ["block.0"], tmp_path))
    state = {key: torch.ones_like(value) for key, value in wrapper.state_dict().items()}
    wrapper.load_state_dict(state, assign=True)
    wrapper(torch.ones(1, 3))
    assert all(torch.equal(value, state[key]) for key, value in wrapper.state_dict().items() if key != "0.cache")


def test_a_buffer_that_appears_in_the_first_pass_is_kept(tmp_path):
    branched = branched_of(WithBlock().eval(), ["block.0"], tmp_path)
    branched(torch.ones(2, 3))
    assert torch.equal(branched.state_dict()["cache"], torch.ones(3))
    assert branched.half().state_dict()["cache"].dtype == torch.float16


def test_a_buffer_that_is_not_saved_is_copied_with_its_layer(tmp_path):
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))
            self.register_buffer("count", torch.zeros(()), persistent=False)
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            self.count = self.count + 1
            return self.inner(x) * self.gain * self.count

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.owner = Owner()

        def trunk(self, x):
            return self.owner(x)

    model = Model()
    branched = branched_of(model, ["owner"], tmp_path)
    found = branched(torch.ones(1, 3))
    expected = Model()
    expected.load_state_dict(model.state_dict())
    outputs = expected(torch.ones(1, 3))
    assert all(torch.equal(found[task], outputs[task]) for task in outputs)
    assert not any("count" in key for key in branched.state_dict())


def test_a_module_under_two_names_stays_one_in_the_tree(tmp_path):
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.gain = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.layer(x) * self.gain

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()
            self.again = self.part

        def trunk(self, x):
            return self.again(self.part(x))

    branched = branched_of(Model(), ["part.layer", "again.layer"], tmp_path)
    number = len(list(branched.parameters()))
    branched.load_state_dict(branched.state_dict(), assign=True)
    assert len(list(branched.parameters())) == number
    assert reached_by(branched, "two") >= {"part.layer.tasks.two.weight", "part.gain"}


Turned = namedtuple("Turned", "two extra one")


class ModelOutput(OrderedDict):
    """A mapping whose entries are attributes as well, as a well-known library has it."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)


FORMS = {
    "a named tuple in another order": lambda out: Turned(out["two"], 5, out["one"]),
    "a mapping with attributes": lambda out: ModelOutput(out, extra=5),
    "a list": lambda out: [out["one"], out["two"]],
    "a namespace": lambda out: SimpleNamespace(**out, extra=5),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_output_keeps_its_form(tmp_path, form):
    class Model(Base):
        def forward(self, x):
            return FORMS[form](super().forward(x))

    model = Model()
    expected = model(torch.ones(1, 3))
    branched = branched_of(model, ["a"], tmp_path)
    with torch.no_grad():
        branched.a._modules["tasks"]._modules["two"].weight.add_(1)
    found = branched(torch.ones(1, 3))
    assert type(found) is type(expected)

    def part(output, task):
        return output[("one", "two").index(task)] if isinstance(output, list) else getattr(output, task)

    assert torch.equal(part(found, "one"), part(expected, "one"))
    assert not torch.equal(part(found, "two"), part(expected, "two"))
    if form != "a list":
        assert found.extra == 5


def test_networks_that_cannot_be_taken_apart_are_refused(tmp_path):
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3)))

    class WithScript(Base):
        def __init__(self) -> None:
            super().__init__()
            self.script = scripted

    class OwnNames(Base):
        def state_dict(self, *args, **kwargs):
            return {f"my_{key}": value for key, value in super().state_dict(*args, **kwargs).items()}

    class Lazy(Base):
        def __init__(self) -> None:
            super().__init__()
            self.lazy = nn.LazyLinear(3)

    with pytest.raises(ReconError, match="TorchScript"):
        branched_of(WithScript(), ["script.0"], tmp_path)
    manifest = manifest_of(Base(), ["a"], ("one", "two"), tmp_path)
    with pytest.raises(ReconError, match="lazy modules"):
        recon_cli.branch(Lazy(), manifest)
    own = OwnNames()
    with pytest.raises(ReconError, match="tensors of `my_a`, but no module of that name"):
        branched_of(own, ["my_a"], tmp_path)


def test_the_original_network_goes_on_working(tmp_path):
    model = Base()
    expected = model(torch.ones(1, 3))
    branched = branched_of(model, ["a"], tmp_path)
    assert torch.equal(model(torch.ones(1, 3))["two"], expected["two"])
    assert branched.b is model.b
