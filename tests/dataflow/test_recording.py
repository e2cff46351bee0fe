"""What is recorded of a forward pass, against what torch counts and against what is written down by hand."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import recon_cli
from recon_cli.artifacts.dataflow import Dataflow, Operation
from recon_cli.artifacts.manifest import Branch, SplitLayer
from recon_cli.branching.streams import count_flops, statistics_apart
from recon_cli.dataflow.flops import FORMULAS
from recon_cli.errors import ReconError
from recon_cli.zoo import resnet18
from tests.branching.catalogue import CATALOGUE, Heads

AB = ("a", "b")


def layer(name: str, tasks: tuple[str, ...] = AB) -> SplitLayer:
    return SplitLayer(name=name, branches=tuple(Branch(id=task, tasks=(task,)) for task in tasks))


def reading(flow: Dataflow, key: str) -> list[Operation]:
    return [operation for operation in flow.operations if key in operation.reads]


def before(flow: Dataflow, operation: Operation) -> set[str]:
    """All that an operation and those before it read."""
    found = set(operation.reads)
    for index in operation.inputs:
        found |= before(flow, flow.operations[index])
    return found


def ab(forward: Any, **parts: Any) -> nn.Module:
    """A network of some parts, whose forward pass is a function of it and its input."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)
            for task in AB:
                setattr(self, task, nn.Linear(4, 2))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return forward(self, x)

    return Network()


def heads(net: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a": net.a(x), "b": net.b(x)}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_the_operations_are_those_that_torch_counts(name, training):
    entry = CATALOGUE[name]
    torch.manual_seed(0)
    model, inputs = entry.make().double().train(training), entry.inputs()
    flow = recon_cli.dataflow_of(model, entry.tasks, *inputs)
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    with torch.no_grad(), BaseTorchFunctionMode(), counter, warnings.catch_warnings():
        # Checkpointing has nothing to do without gradients, and says so.
        warnings.simplefilter("ignore")
        model(*inputs)
    assert sum(operation.flops for operation in flow.operations) == counter.get_total_flops() > 0
    assert flow.tasks == entry.tasks
    needed = {key for operation in flow.operations if operation.tasks for key in operation.reads}
    unused = {name for name, _ in model.named_parameters()} - needed
    assert unused <= {"trunk.large.weight", "trunk.large.bias"}


def test_a_resnet_is_a_small_record():
    flow = recon_cli.dataflow_of(resnet18(), ("fashion", "mnist"), torch.rand(2, 1, 36, 36))
    assert len(flow.operations) < 80 and len(flow.model_dump_json()) < 12_000
    assert Dataflow.model_validate_json(flow.model_dump_json()) == flow


def test_what_a_block_reads_and_moves_is_known_exactly():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten())
    network = ab(lambda net, x: heads(net, net.trunk(x)), trunk=nn.Sequential(*model, nn.Linear(8, 4)))
    flow = recon_cli.dataflow_of(network, AB, torch.rand(3, 1, 4, 4))
    norm = tuple(f"trunk.1.{name}" for name in ("bias", "running_mean", "running_var", "weight"))
    assert flow.operations == (
        Operation(flops=2 * 3 * 4 * 2 * 9, inputs=(), reads=("trunk.0.weight",), moves=(), tasks=(0, 1)),
        Operation(flops=0, inputs=(), reads=("trunk.1.num_batches_tracked",), moves=("trunk.1.num_batches_tracked",),
                  tasks=(0, 1)),
        Operation(flops=0, inputs=(0,), reads=norm, moves=("trunk.1.running_mean", "trunk.1.running_var"),
                  tasks=(0, 1)),
        Operation(flops=2 * 3 * 8 * 4, inputs=(2,), reads=("trunk.4.bias", "trunk.4.weight"), moves=(), tasks=(0, 1)),
        Operation(flops=2 * 3 * 4 * 2, inputs=(3,), reads=("a.bias", "a.weight"), moves=(), tasks=(0,)),
        Operation(flops=2 * 3 * 4 * 2, inputs=(3,), reads=("b.bias", "b.weight"), moves=(), tasks=(1,)),
    )  # fmt: skip
    evaluated = recon_cli.dataflow_of(network.eval(), AB, torch.rand(3, 1, 4, 4))
    assert not any(operation.moves for operation in evaluated.operations)


WRITES = {
    "into a view": lambda net, h: h.view(-1)[:4].copy_(net.late(h)[0]),
    "in place": lambda net, h: h.add_(net.late(h)),
    "out": lambda net, h: torch.mul(net.late(h), 2, out=h),
    "through an alias": lambda net, h: h.detach().mul_(net.late(h)),
    "by an item": lambda net, h: h.__setitem__((slice(None), 0), net.late(h)[:, 1]),
    "by several": lambda net, h: torch._foreach_add_([h], [net.late(h)]),
}


@pytest.mark.parametrize("way", WRITES)
def test_what_is_read_after_a_write_depends_on_it_by_any_name(way):
    def forward(net, x):
        h = net.early(x)
        view = h[:, :]
        WRITES[way](net, h)
        return {"a": net.a(view), "b": net.b(x)}

    flow = recon_cli.dataflow_of(ab(forward, early=nn.Linear(4, 4), late=nn.Linear(4, 4)), AB, torch.rand(4, 4))
    (a,), (b,) = reading(flow, "a.weight"), reading(flow, "b.weight")
    assert {"early.weight", "late.weight"} <= before(flow, a)
    assert before(flow, b) == {"b.weight", "b.bias"}
    assert [each.tasks for each in reading(flow, "late.weight")] == [(0,)]


def test_a_parameter_is_read_by_any_view_and_a_tied_one_by_its_first_name():
    def forward(net, x):
        x = x + net.scale.expand(len(x), 4) + net.scale.detach().view(2, 2).t().reshape(-1)
        return {"a": net.a(x), "b": nn.functional.linear(x, net.tied[1:3])}

    network = ab(forward, tied=nn.Parameter(torch.rand(4, 4)), scale=nn.Parameter(torch.rand(4)))
    network.again = network.tied
    network.b = nn.Identity()
    flow = recon_cli.dataflow_of(network, AB, torch.rand(3, 4))
    assert len(reading(flow, "scale")) == 1 and not reading(flow, "again")
    assert [each.tasks for each in reading(flow, "tied")] == [(1,)]


def test_parts_of_one_piece_of_memory_are_told_apart():
    flat = torch.rand(32)
    network = ab(lambda net, x: {"a": x @ net.one, "b": x @ net.two})
    network.one, network.two = nn.Parameter(flat[:16].view(4, 4)), nn.Parameter(flat[16:].view(4, 4))
    flow = recon_cli.dataflow_of(network, AB, torch.rand(3, 4))
    assert [(each.reads, each.tasks) for each in flow.operations] == [(("one",), (0,)), (("two",), (1,))]


def test_a_norm_that_each_task_calls_on_its_own_features_keeps_its_statistics():
    def forward(net, x):
        return {"a": net.a(net.norm(net.left(x))), "b": net.b(net.norm(net.right(x)))}

    network = ab(forward, norm=nn.BatchNorm1d(4), left=nn.Linear(4, 4), right=nn.Linear(4, 4))
    flow = recon_cli.dataflow_of(network, AB, torch.rand(3, 4))
    assert [each.tasks for each in reading(flow, "norm.weight")] == [(0,), (1,)]
    assert "left.weight" not in before(flow, reading(flow, "b.weight")[0])
    assert statistics_apart(flow, [layer("left")]) == {}


def test_buffers_that_are_moved_in_any_way_part_behind_a_split():
    def forward(net, x):
        x = net.trunk(x)
        net.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        net.largest = torch.maximum(net.largest, x.amax(0))
        net.kept.copy_(net.a.weight.sum())
        return heads(net, x)

    network = ab(forward, trunk=nn.Linear(4, 4))
    for name in ("mean", "largest", "kept"):
        network.register_buffer(name, torch.zeros(()) if name == "kept" else torch.zeros(4))
    held = dict(network.named_buffers())
    flow = recon_cli.dataflow_of(network, AB, torch.rand(3, 4))
    assert {key for each in flow.operations for key in each.moves} == set(held)
    assert statistics_apart(flow, []) == {}
    assert statistics_apart(flow, [layer("trunk")]) == {"mean": (0, 1), "largest": (0, 1)}
    assert all(network.get_buffer(name) is buffer and not buffer.any() for name, buffer in held.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_cost_the_same_however_they_are_computed(kind, dtype):
    def forward(net, x):
        return heads(net, net.rnn(x)[0][-1])

    network = ab(forward, rnn=kind(3, 4)).to(dtype)
    flow = recon_cli.dataflow_of(network, AB, torch.rand(5, 2, 3, dtype=dtype))
    gates = sum(value.numel() for name, value in network.rnn.named_parameters() if "weight" in name)
    assert sum(each.flops for each in reading(flow, "rnn.weight_hh_l0")) == 2 * 5 * 2 * gates


def test_attention_is_counted_on_the_cpu_too():
    def forward(net, x):
        return heads(net, nn.functional.scaled_dot_product_attention(x, x, net.key(x)).mean(1))

    network = ab(forward, key=nn.Linear(4, 4))
    flow = recon_cli.dataflow_of(network, AB, torch.rand(2, 1, 5, 4))
    key, products, head = 2 * 10 * 4 * 4, 2 * (2 * 2 * 5 * 5 * 4), 2 * 10 * 4 * 2
    assert count_flops(flow, []) == key + products + 2 * head


@pytest.mark.parametrize("way", ["cond", "script", "inference", "jagged", "vmap", "sparse", "autocast", "compiled"])
def test_code_of_every_kind_is_seen(way):
    def forward(net, x):
        if way == "cond":
            x = torch.cond(x.sum() > 0, net.trunk, lambda x: net.other(x), (x,))
        elif way == "inference":
            with torch.inference_mode():
                x = net.trunk(x)
        elif way == "jagged":
            x = net.trunk(torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 2, 5]))).values()
        elif way == "vmap":
            x = torch.vmap(net.trunk)(x)
        elif way == "sparse":
            x = torch.sparse.mm(torch.eye(5).to_sparse(), net.trunk(x))
        elif way == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                x = net.trunk(x).float()
        else:
            x = net.trunk(x)
        return heads(net, x)

    trunk: Any = nn.Linear(4, 4)
    if way == "compiled":
        trunk = torch.compile(trunk, backend="eager")
    elif way == "script":
        with pytest.warns(DeprecationWarning):
            trunk = torch.jit.script(trunk)
    network = ab(forward, trunk=trunk, other=nn.Linear(4, 4))
    flow = recon_cli.dataflow_of(network, AB, torch.rand(5, 4))
    name = next(name for name in network.state_dict() if name.startswith("trunk") and name.endswith("weight"))
    assert count_flops(flow, []) == 2 * 5 * 4 * (4 + 2 + 2)
    for task in AB:
        assert all(name in before(flow, each) for each in reading(flow, f"{task}.weight"))
    assert all(each.tasks == (0, 1) for each in reading(flow, name))


class Restless(nn.Module):
    """Changes all that a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("total", torch.zeros(4))
        self.calls, self.seen, self.last, self.recent = 0, [1], {"x": 0}, deque([1], maxlen=3)
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x.mul_(2)
        self.calls += 1
        self.seen.append(x)
        self.recent.append(x)
        self.last["x"] = x
        self.added = x
        self.total = self.total + x.mean(0)
        self.register_buffer("new", x.sum())
        self.register_forward_hook(lambda *_: None)
        h = nn.functional.dropout(self.norm(self.trunk(x)), 0.5)
        h = h + torch.rand(4, generator=self.generator)
        return self.a(h), self.b(h)


def test_a_recording_leaves_no_trace():
    torch.manual_seed(0)
    model, x = Restless(), torch.rand(3, 4)
    model.trunk.weight.grad = torch.ones(4, 4)
    twin, y = copy.deepcopy(model), x.clone()
    state, mode = torch.get_rng_state(), model.training
    recon_cli.dataflow_of(model, AB, x)
    assert torch.equal(x, y) and torch.equal(torch.get_rng_state(), state) and model.training is mode
    assert model.state_dict().keys() == twin.state_dict().keys() and not hasattr(model, "added")
    assert (model.calls, model.seen, model.last, list(model.recent)) == (0, [1], {"x": 0}, [1])
    assert not model._forward_hooks and torch.equal(model.trunk.weight.grad, torch.ones(4, 4))
    # What comes next is bit for bit what it had been.
    found, expected = [], []
    for network, results in ((model, found), (twin, expected)):
        torch.set_rng_state(state)
        results += [*network(y.clone()), *network.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_network_that_fails_is_left_as_it_was():
    network = ab(lambda net, x: net.norm(x) and None, norm=nn.BatchNorm1d(4))
    with pytest.raises(RuntimeError, match="ambiguous"):
        recon_cli.dataflow_of(network, AB, torch.rand(3, 4))
    assert network.norm.num_batches_tracked == 0 and not network.norm.running_mean.any()


def test_tasks_that_are_not_there_are_named():
    network = Heads(nn.Identity(), 4)
    with pytest.raises(ReconError, match="no key `c`"):
        recon_cli.dataflow_of(network, ("a", "c"), torch.rand(3, 4))
    with pytest.raises(ReconError, match="task `b` holds no tensor"):
        recon_cli.dataflow_of(ab(lambda net, x: {"a": net.a(x), "b": 3}), AB, torch.rand(3, 4))
