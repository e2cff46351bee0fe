"""Networks put together at random, with writes, views and reuse: the engines against separate networks."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

import recon_cli
from recon_cli.artifacts.manifest import Manifest
from tests.branching.test_engines import move_apart, separate_networks
from tests.branching.test_module import loss_of, manifest_of

WIDTH = 4
TASKS = ("a", "b", "c")

# What is done to the two tensors that an instruction names; each gives a tensor of the same shape.
OPERATIONS: dict[str, Callable[[Any, torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "linear": lambda net, h, other, k: net.layers[k](h),
    "norm": lambda net, h, other, k: net.norms[k](h),
    "tanh": lambda net, h, other, k: torch.tanh(h),
    "relu in place": lambda net, h, other, k: nn.functional.relu(h, inplace=True),
    "add": lambda net, h, other, k: h + other,
    "add in place": lambda net, h, other, k: h.add_(other),
    "scale in place": lambda net, h, other, k: h.mul_(0.5),
    "write into a view": lambda net, h, other, k: h[:, :2].add_(other[:, 2:]) is None or h,
    "set items": lambda net, h, other, k: h.__setitem__((slice(None), 0), other[:, 1]) or h,
    "clone": lambda net, h, other, k: h.clone(),
    "detach": lambda net, h, other, k: h.detach() + 0.1,
    "same memory": lambda net, h, other, k: h.view(-1, WIDTH),
    "swap halves": lambda net, h, other, k: torch.cat(h.chunk(2, 1)[::-1], 1),
    "decide": lambda net, h, other, k: h + 1 if h.sum() > other.sum() else other * 2,
    "mask": lambda net, h, other, k: h * torch.ones(WIDTH, dtype=h.dtype).mul_(0.7),
    "own parameter": lambda net, h, other, k: h * net.scale,
}

instructions = st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 5), st.integers(0, 5), st.integers(0, 2))


class Network(nn.Module):
    """Runs a program on a list of tensors; every instruction adds one."""

    def __init__(self, program: list[tuple[str, int, int, int]], heads: list[int]) -> None:
        super().__init__()
        self.program, self.picks = program, heads
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(3))
        self.scale = nn.Parameter(torch.rand(WIDTH))
        self.heads = nn.ModuleDict({t: nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 2)) for t in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        tensors = [self.layers[0](x)]
        for name, one, two, number in self.program:
            tensors.append(
                OPERATIONS[name](self, tensors[-1 - one % len(tensors)], tensors[-1 - two % len(tensors)], number)
            )
        picked = zip(TASKS, self.picks, strict=True)
        return {task: self.heads[task](tensors[-1 - pick % len(tensors)]) for task, pick in picked}


def step(network: nn.Module, x: torch.Tensor, tasks: tuple[str, ...] = TASKS) -> tuple[dict[str, Any], dict[str, Any]]:
    network.zero_grad(set_to_none=True)
    output = network(x)
    sum(loss_of(output, TASKS, task) for task in tasks).backward()
    return output, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@settings(max_examples=60, deadline=None)
@given(
    program=st.lists(instructions, min_size=1, max_size=9),
    heads=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    layers=st.sets(st.sampled_from(["layers.0", "layers.1", "norms.0", "norms.1", "scale"]), min_size=1),
    training=st.booleans(),
)
def test_the_engines_agree_with_separate_networks(tmp_path_factory, program, heads, layers, training):
    torch.manual_seed(6)
    model = Network(program, heads).double().train(training)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    try:
        step(copy.deepcopy(model), x)
    except RuntimeError:
        # What it has written over, its own backward pass needs.
        assume(False)
    folder = tmp_path_factory.mktemp("random")
    manifest = manifest_of(model, sorted(layers), TASKS, folder)
    for engine in ("auto", "passes"):
        branched = recon_cli.branch(copy.deepcopy(model), manifest, engine)
        move_apart(branched)
        separate = separate_networks(model, branched, Manifest.read(folder / "branched.manifest.json"))
        expected: dict[str, torch.Tensor] = {}
        outputs = {}
        for task, network in separate.items():
            output, gradients = step(network, x, (task,))
            outputs[task] = output[task]
            for record in manifest.tensors:
                if record.key in gradients:
                    place = record.key if record.copies is None else record.copies[task]
                    expected[place] = expected.get(place, 0) + gradients[record.key]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                output, gradients = step(branched, x)
                for task in TASKS:
                    torch.testing.assert_close(output[task], outputs[task], rtol=1e-12, atol=1e-12)
                assert gradients.keys() == expected.keys()
                for name, value in expected.items():
                    torch.testing.assert_close(gradients[name], value, rtol=1e-9, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    program=st.lists(instructions, min_size=1, max_size=9),
    heads=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    layers=st.sets(st.sampled_from(["layers.0", "layers.1", "norms.0", "scale"]), min_size=1),
)
@example(
    program=[("decide", 0, 0, 0), ("norm", 0, 0, 0), ("write into a view", 0, 0, 0)], heads=[0, 0, 0], layers={"scale"}
)
@example(
    program=[("decide", 0, 0, 0), ("norm", 0, 0, 0), ("write into a view", 2, 0, 0)], heads=[0, 0, 0], layers={"scale"}
)
def test_streams_move_the_statistics_of_separate_networks(program, heads, layers):
    torch.manual_seed(6)
    model = Network(program, heads).double().train()
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    try:
        step(copy.deepcopy(model), x)
    except RuntimeError:
        # What it has written over, its own backward pass needs.
        assume(False)
    plan = recon_cli.branching_plan(model, sorted(layers), TASKS, x)
    # One that is called twice sees in each call what other tasks may need it for.
    uses = Counter(number for name, _, _, number in program if name == "norm")
    for engine in ("auto", "passes"):
        branched = recon_cli.branch(copy.deepcopy(model), plan, engine)
        move_apart(branched)
        separate = {task: copy.deepcopy(model) for task in TASKS}
        with torch.no_grad():
            for task, network in separate.items():
                for name, parameter in network.named_parameters():
                    parameter.copy_(branched.state_dict()[plan.place(name, task)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                step(branched, x)
                for task, network in separate.items():
                    step(network, x, (task,))
        state = branched.state_dict()
        for task, network in separate.items():
            # What a task's output does not come from is moved by its own network, but is nothing to its stream.
            for number in (n for n, times in uses.items() if times == 1 and network.norms[n].weight.grad is not None):
                for name, buffer in network.norms[number].named_buffers():
                    found = state[plan.place(f"norms.{number}.{name}", task)]
                    torch.testing.assert_close(found, buffer, rtol=1e-12, atol=1e-12)
