"""Training checkpoints: what mirrors the parameters is branched along, so that training goes on from the result."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from recon_cli.artifacts.manifest import CarriedEntry
from recon_cli.branching.plan import BranchingPlan, plan_branching, split_per_task
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.branching.training_state import TreeBranching
from recon_cli.checkpoints.torch_files.source import TorchSource
from recon_cli.checkpoints.torch_files.writer import SourceStorages, TorchFile
from recon_cli.layers.names import is_parameter

SPLIT = ["shift", "conv", "bn", "attn", "fc"]


class Network(nn.Module):
    """Two tasks on parameters of the root, a convolution, a BatchNorm, a layer within a layer, and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.fc = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 3)})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.bn(self.conv(x * self.scale + self.shift)).relu().flatten(2).transpose(1, 2)
        x = self.fc(self.attn(x, x, x)[0].mean(1))
        return {name: head(x) for name, head in self.heads.items()}


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        sum(output.square().mean() for output in network(x).values()).backward()
        optimizer.step()


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().to(memory_format=torch.channels_last)


def rewrite(
    content: object, key: str | None = None, layers: list[str] = SPLIT
) -> tuple[object, BranchingPlan, list[CarriedEntry]]:
    """Save, branch and load again."""
    torch.save(content, "in.pt")
    with TorchSource(Path("in.pt")) as source:
        plan = plan_branching([t.key for t in source.tensors], [split_per_task(n, (), "ab") for n in layers], "ab")
        storages = SourceStorages(source.content)
        parameters = [t.key for t in source.tensors if is_parameter(t.key, t.dtype) and t.key not in source.ties]
        branching = TreeBranching(plan, "", {t.key: t for t in source.tensors}, parameters, storages)
        root, carried = branching.branched(source.content.root, source.weights.path)
        file = TorchFile(root, storages, None)
        descriptor = os.open("out.pt", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        file.write(descriptor, source, None)
        os.close(descriptor)
        assert Path("out.pt").stat().st_size == file.bytes
    return torch.load("out.pt", weights_only=True), plan, carried


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sources(plan: BranchingPlan) -> dict[str, str]:
    """For each name in the branched state dict, the one that it comes from."""
    return {name: key for key, names in plan.places.items() for name in names}


OPTIMIZERS = {
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=1e-2, amsgrad=True),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=1e-2, momentum=0.9),
    "plain": lambda ps: torch.optim.SGD(ps, lr=1e-2),
    "adafactor": lambda ps: torch.optim.Adafactor(ps, lr=1e-2),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_with_every_moment_at_its_copy(network, kind, named):
    optimizer = OPTIMIZERS[kind](network.named_parameters() if named else network.parameters())
    train(network, optimizer)
    found, plan, carried = rewrite({"epoch": 3, "model": network.state_dict(), "optimizer": optimizer.state_dict()})
    assert [(c.path, c.treatment) for c in carried] == [("epoch", "kept"), ("optimizer", "branched")]
    branched = BranchedModel(copy.deepcopy(network), plan)
    assert list(found["model"]) == list(branched.state_dict())
    branched.load_state_dict(found["model"])
    resumed = OPTIMIZERS[kind](branched.named_parameters() if named else branched.parameters())
    resumed.load_state_dict(found["optimizer"])
    old, origin = dict(network.named_parameters()), sources(plan)
    for name, parameter in branched.named_parameters():
        assert torch.equal(parameter, old[origin[name]])
        assert set(resumed.state[parameter]) == set(optimizer.state[old[origin[name]]])
        for moment, value in resumed.state[parameter].items():
            expected = optimizer.state[old[origin[name]]][moment]
            assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected
    train(branched, resumed, 1)


def test_moving_averages_in_their_usual_forms_are_branched_along(network):
    average = AveragedModel(network)
    shadow = [p.detach().clone() for p in network.parameters()]
    content = {
        "state_dict": network.state_dict(),
        "ema": average.state_dict(),
        "timm": {k: v + 1 for k, v in network.state_dict().items()},
        "parameters": dict(network.named_parameters()),
        "shadow": {"decay": 0.9, "shadow_params": shadow},
        "by name": {"state": {k: {"exp_avg": v, "step": 3} for k, v in network.named_parameters()}},
    }
    found, plan, carried = rewrite(content)
    assert {c.path: c.treatment for c in carried} == dict.fromkeys(list(content)[1:], "branched")
    branched = BranchedModel(copy.deepcopy(network), plan)
    averaged = AveragedModel(branched)
    averaged.load_state_dict(found["ema"])
    origin = sources(plan)
    assert all(torch.equal(found["timm"][name], network.state_dict()[origin[name]] + 1) for name in origin)
    names = [name for name, _ in branched.named_parameters()]
    assert list(found["parameters"]) == names
    old = dict(network.named_parameters())
    for value, name in zip(found["shadow"]["shadow_params"], names, strict=True):
        assert torch.equal(value, old[origin[name]])
    assert set(found["by name"]["state"]) == set(names)
    assert found["by name"]["state"]["conv.tasks.b.bias"]["step"] == 3


def test_copies_lie_apart_and_keep_their_memory_format(network):
    found, _, _ = rewrite(
        {"model": network.state_dict(), "ema": {k: v.clone() for k, v in network.state_dict().items()}}
    )
    where = [v.untyped_storage().data_ptr() for part in found.values() for v in part.values()]
    assert len(set(where)) == len(where)
    assert found["model"]["conv.tasks.b.weight"].is_contiguous(memory_format=torch.channels_last)


def test_what_is_tied_is_tied_in_every_branch(network):
    network.fc.weight = network.attn.out_proj.weight
    found, _, _ = rewrite(network.state_dict(), layers=["fc", "attn.out_proj"])
    where = {key: value.untyped_storage().data_ptr() for key, value in found.items()}
    assert where["fc.tasks.a.weight"] == where["attn.out_proj.tasks.a.weight"]
    assert where["fc.tasks.b.weight"] == where["attn.out_proj.tasks.b.weight"] != where["fc.tasks.a.weight"]


def test_versions_of_the_layers_are_told_to_their_copies(network):
    found, _, _ = rewrite(network.state_dict())
    assert found._metadata["bn.tasks.a"] == {"version": 2}


def test_groups_keep_their_settings_and_their_parameters(network):
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    names = {id(p): name for name, p in network.named_parameters()}
    groups = [
        {"params": [(names[id(p)], p) for p in decayed], "weight_decay": 0.1},
        {"params": [(names[id(p)], p) for p in others], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    train(network, optimizer)
    found, plan, _ = rewrite({"model": network.state_dict(), "optimizer": optimizer.state_dict()})
    first, second = found["optimizer"]["param_groups"]
    assert (first["weight_decay"], second["weight_decay"]) == (0.1, 0.0)
    assert first["params"] + second["params"] == list(range(len(first["params"] + second["params"])))
    origin = sources(plan)
    for group in (first, second):
        for identity, name in zip(group["params"], group["param_names"], strict=True):
            expected = optimizer.state[dict(network.named_parameters())[origin[name]]]["exp_avg"]
            assert torch.equal(found["optimizer"]["state"][identity]["exp_avg"], expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda network: torch.optim.Adam(list(network.parameters())[1:]), "parameters without names"),
        (lambda network: torch.optim.Adam(sorted(network.parameters(), key=lambda p: p.ndim)), "have other shapes"),
    ],
)
def test_an_optimizer_that_does_not_say_what_its_moments_belong_to_is_kept_with_the_reason(network, change, words):
    optimizer = change(network)
    train(network, optimizer)
    found, _, carried = rewrite({"model": network.state_dict(), "optimizer": optimizer.state_dict()})
    (note,) = [c for c in carried if c.path == "optimizer"]
    assert note.treatment == "kept" and words in (note.reason or "")
    before = optimizer.state_dict()["state"]
    for identity, state in found["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg"], before[identity]["exp_avg"])
