"""The branched module against an independent reference: one separate network per task whose shared tensors are one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import recon_cli
from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.requests import SelectionRequest, SplitRequest
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.branching.split import split_checkpoint
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.errors import ReconError
from recon_cli.layers.discovery import discover_layers
from recon_cli.outputs import output_of
from recon_cli.zoo import small_resnet
from tests import networks

Input = Callable[[], torch.Tensor]


def images() -> torch.Tensor:
    return torch.rand(3, 1, 12, 12, dtype=torch.float64)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], Input, list[list[str]]]] = {
    "convolutions": (
        networks.TwoTasks, ("left", "right"), images,
        [["conv"], ["norm", "body.2"], ["conv", "norm", "body.0", "body.2"]],
    ),
    "a tuple": (networks.Tuple, ("left", "right"), images, [["body.0"]]),
    "a dataclass": (networks.WithAttributes, ("left", "right"), images, [["norm"]]),
    "tied weights": (networks.Tied, ("word", "kind"), lambda: torch.arange(5), [["embed,decode"], ["mix"]]),
    "attention": (
        networks.Attention,
        ("one", "two"),
        lambda: torch.rand(3, 4, 8, dtype=torch.float64),
        [["position"], ["block.self_attn"], ["block.self_attn.out_proj", "block.norm1"], ["block.linear2", "position"]],
    ),
    "reused modules": (
        networks.Reused, ("a", "b"), lambda: torch.rand(6, 4, dtype=torch.float64),
        [["first,again"], ["inner.0"], ["norm"]],
    ),
    "recurrent": (
        networks.Recurrent, ("a", "b"), lambda: torch.rand(2, 5, 3, dtype=torch.float64), [["rnn"], ["scale"]],
    ),
    "residual": (
        small_resnet, ("fashion", "mnist"), lambda: torch.rand(4, 1, 20, 20, dtype=torch.float64),
        [["conv1"], ["layer2.0.downsample.0", "layer3.0.bn2"], ["layer1.0.conv1", "fc"]],
    ),
}  # fmt: skip
PARAMETERS = [(name, layers) for name, case in CASES.items() for layers in case[3]]


@pytest.fixture(params=PARAMETERS, ids=lambda p: f"{p[0]}: {', '.join(p[1])}")
def case(request, tmp_path):
    """A network, its tasks, an input, and the manifest of a split of it."""
    name, groups = request.param
    make, tasks, make_input, _ = CASES[name]
    torch.manual_seed(1)
    model = make().double()
    layers = ",".join(groups).split(",")
    manifest = manifest_of(model, layers, tasks, tmp_path)
    return model, tasks, make_input(), manifest, layers


def manifest_of(model: nn.Module, layers: list[str], tasks: tuple[str, ...], folder: Path) -> Manifest:
    # torch.save keeps what is tied, so that a split across a tie is seen.
    torch.save(model.state_dict(), folder / "model.pt")
    request = SplitRequest(folder / "model.pt", SelectionRequest(layers=tuple(layers)), None, tasks)
    split_checkpoint(request, folder / "branched.safetensors", overwrite=True)
    return Manifest.read(folder / "branched.manifest.json")


def loss_of(output: Any, tasks: tuple[str, ...], task: str) -> torch.Tensor:
    value = output_of(output, tasks, task)
    return (value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)).sum()


def original_key(key: str, manifest: Manifest) -> str:
    return next(record.key for record in manifest.tensors if key in record.places)


def test_outputs_equal_the_unsplit_networks_bit_for_bit(case):
    model, tasks, x, manifest, _ = case
    model.eval()
    expected = copy.deepcopy(model)(x)
    found = recon_cli.branch(model, manifest)(x)
    assert type(found) is type(expected)
    for task in tasks:
        assert torch.equal(output_of(found, tasks, task), output_of(expected, tasks, task))


def test_the_branched_file_fits_and_gives_the_same_outputs(case, tmp_path):
    model, tasks, x, _, _ = case
    model.eval()
    expected = copy.deepcopy(model)(x)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    branched = recon_cli.branch(other, tmp_path / "branched.safetensors")
    branched.load_state_dict(load_file(tmp_path / "branched.safetensors"))
    for task in tasks:
        assert torch.equal(output_of(branched(x), tasks, task), output_of(expected, tasks, task))


def test_the_names_are_those_of_the_branched_file(case, tmp_path):
    model, _, _, manifest, _ = case
    branched = recon_cli.branch(model, manifest)
    assert set(branched.state_dict()) == set(load_file(tmp_path / "branched.safetensors"))
    listed = [id(parameter) for parameter in branched.parameters()]
    assert len(listed) == len(set(listed)) == len({id(p) for v in branched._views.values() for p in v.parameters()})


def test_a_loss_reaches_its_own_branches_alone(case):
    model, tasks, x, manifest, _ = case
    branched = recon_cli.branch(model.train(), manifest)
    for task, other in (tasks, tasks[::-1]):
        branched.zero_grad(set_to_none=True)
        loss_of(branched(x), tasks, task).backward()
        reached = {name for name, p in branched.named_parameters() if p.grad is not None}
        assert any(f".tasks.{task}" in name for name in reached)
        assert not any(f".tasks.{other}" in name for name in reached)


def test_training_is_that_of_separate_networks_whose_shared_tensors_are_one(case):
    model, tasks, x, manifest, _ = case
    # Running statistics are no part of this comparison: one set is fed by every task's pass.
    model.eval()
    separate = {task: copy.deepcopy(model) for task in tasks}
    branched = recon_cli.branch(model, manifest)
    optimizer = torch.optim.SGD(branched.parameters(), lr=0.05)
    for _ in range(3):
        output = branched(x)
        optimizer.zero_grad()
        sum(loss_of(output, tasks, task) for task in tasks).backward()
        gradients: dict[str, dict[str, torch.Tensor]] = {}
        for task in tasks:
            own = separate[task]
            own.zero_grad()
            loss_of(own(x), tasks, task).backward()
            gradients[task] = {name: p.grad for name, p in own.named_parameters() if p.grad is not None}
        for name, parameter in branched.named_parameters():
            key = original_key(name, manifest)
            users = [task for task in tasks if f".tasks.{task}" in name] or list(tasks)
            parts = [gradients[task][key] for task in users if key in gradients[task]]
            assert (parameter.grad is None) == (not parts)
            if parts:
                assert torch.allclose(parameter.grad, sum(parts), rtol=1e-10, atol=1e-12), name
        optimizer.step()
        state = branched.state_dict()
        for task in tasks:
            own_state = separate[task].state_dict()
            for record in manifest.tensors:
                branch_id = next((b for b in record.copies or {} if b == task), None)
                value = state[record.copies[branch_id] if record.copies and branch_id else record.key]
                own_state[record.key].copy_(value)


def test_it_can_be_moved_copied_pickled_and_loaded_again(case):
    model, tasks, x, manifest, _ = case
    branched = recon_cli.branch(model.eval(), manifest)
    expected = [output_of(branched(x), tasks, task) for task in tasks]
    others = [copy.deepcopy(branched)]
    if "scale" not in dict(model.named_children()):
        # PyTorch itself refuses to pickle the parametrised layer of that network.
        others.append(pickle.loads(pickle.dumps(branched)))
    for other in others:
        assert [torch.equal(output_of(other(x), tasks, t), e) for t, e in zip(tasks, expected, strict=True)]
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.5)
        assert torch.equal(output_of(branched(x), tasks, tasks[0]), expected[0]), "the copy is one of its own"
        other.load_state_dict(branched.state_dict(), assign=True)
        assert torch.equal(output_of(other(x), tasks, tasks[1]), expected[1])
    single = branched.float()
    single_input = x.float() if x.is_floating_point() else x
    assert output_of(single(single_input), tasks, tasks[0]).dtype == torch.float32
    for task, value in zip(tasks, expected, strict=True):
        assert torch.allclose(output_of(single(single_input), tasks, task).double(), value, atol=1e-4)


def test_modes_reach_every_module(case):
    model, _, x, manifest, _ = case
    branched = recon_cli.branch(model, manifest)
    for mode in (False, True):
        branched.train(mode)(x)
        assert all(module.training is mode for view in branched._views.values() for module in view.modules())


def test_the_layers_of_a_branched_network_are_its_copies_and_the_shared_ones(case):
    model, _, _, manifest, _ = case
    parameters = {name for layer in discover_layers(recon_cli.branch(model, manifest)) for name in layer.parameters}
    for record in manifest.tensors:
        if record.copies and record.key in dict(model.named_parameters()):
            assert set(record.places) <= parameters


class Counting(nn.Module):
    """A buffer that is replaced, in a module around a split layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.trunk = nn.Linear(2, 2)
        self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x):
        self.steps = self.steps + 1
        x = self.trunk(x)
        return {"a": self.a(x), "b": self.b(x)}


def test_a_buffer_that_is_replaced_is_not_lost(tmp_path):
    model = Counting()
    manifest = manifest_of(model, ["trunk"], ("a", "b"), tmp_path)
    for engine, steps in (("calls", 1), ("passes", 2)):
        branched = recon_cli.branch(copy.deepcopy(model), manifest, engine)
        branched(torch.zeros(1, 2))
        assert branched.state_dict()["steps"].item() == steps


class Awkward(nn.Module):
    """Tasks that are called like attributes of modules and dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(2, 2)
        self.tasks = nn.Linear(2, 2)
        self.x, self.y = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x):
        x = self.tasks(self.trunk(x))
        return {"type": self.x(x), "1st-pop": self.y(x)}


def test_awkward_names_work(tmp_path):
    model = Awkward().eval()
    manifest = manifest_of(model, ["trunk", "tasks"], ("type", "1st-pop"), tmp_path)
    expected = copy.deepcopy(model)(torch.ones(1, 2))
    branched = recon_cli.branch(model, manifest)
    branched.load_state_dict(load_file(tmp_path / "branched.safetensors"))
    assert "trunk.tasks.t1st_pop.weight" in branched.state_dict()
    assert branched.task_names == ("type", "1st-pop")
    found = branched(torch.ones(1, 2))
    assert all(torch.equal(found[task], expected[task]) for task in expected)


class Referring(nn.Module):
    """Modules that find each other in attributes that are not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(2, 2)
        self.decoder = Decoder(self.trunk)
        self.call = self.trunk.forward
        self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x):
        x = self.decoder(self.call(x))
        return {"a": self.a(x), "b": self.b(x)}


class Decoder(nn.Module):
    def __init__(self, encoder: nn.Linear) -> None:
        super().__init__()
        self.encoders = [encoder]
        self.own = nn.Linear(2, 2)

    def forward(self, x):
        return nn.functional.linear(self.own(x), self.encoders[0].weight.T)


def test_references_outside_the_module_tree_lead_to_the_tasks_own_copy(tmp_path):
    torch.manual_seed(0)
    model = Referring()
    branched = recon_cli.branch(model, manifest_of(model, ["trunk"], ("a", "b"), tmp_path))
    branched(torch.ones(1, 2))["b"].sum().backward()
    gradients = {name: p.grad for name, p in branched.named_parameters()}
    assert gradients["trunk.tasks.a.weight"] is None
    assert gradients["trunk.tasks.b.weight"].abs().sum() > 0


def test_a_manifest_of_another_model_is_refused(tmp_path):
    manifest = manifest_of(networks.two_tasks(), ["conv"], ("left", "right"), tmp_path)
    with pytest.raises(ReconError, match="the model lacks `conv.weight`"):
        recon_cli.branch(networks.Unshared(), manifest)
    wide = networks.TwoTasks()
    wide.body[2] = nn.Linear(6, 7)
    with pytest.raises(ReconError, match=r"`body.2.weight` has the shape \(6, 6\) there, the model's \(7, 6\)"):
        recon_cli.branch(wide, manifest)
    more = networks.TwoTasks()
    more.extra = nn.Linear(1, 1)
    with pytest.raises(ReconError, match="the manifest does not know `extra.weight`"):
        recon_cli.branch(more, manifest)


def test_a_split_across_a_tie_is_refused(tmp_path):
    model = networks.Tied()
    state = {key: value for key, value in model.state_dict().items() if key != "decode.weight"}
    save_state_dict(state, tmp_path / "x.safetensors")
    request = SplitRequest(tmp_path / "x.safetensors", SelectionRequest(layers=("embed",)), None, ("word", "kind"))
    split_checkpoint(request, tmp_path / "b.safetensors")
    with pytest.raises(ReconError, match="are tied"):
        recon_cli.branch(model, tmp_path / "b.safetensors")


def test_paths_that_hold_no_manifest_are_refused(tmp_path, checkpoint):
    with pytest.raises(ReconError, match="carries no manifest"):
        recon_cli.branch(networks.two_tasks(), checkpoint)
    with pytest.raises(ReconError, match="there is no file"):
        recon_cli.branch(networks.two_tasks(), tmp_path / "none.json")


def test_tasks_may_share_a_branch(tmp_path):
    model = networks.TwoTasks().eval()
    manifest = manifest_of(model, ["conv"], ("left", "right"), tmp_path)
    content = manifest.to_json()
    content["layers"][0]["branches"] = [{"id": "both", "tasks": ["left", "right"]}]
    for record in content["tensors"]:
        if record["copies"]:
            record["copies"] = {"both": record["key"].replace("conv.", "conv.tasks.both.")}
    branched = recon_cli.branch(model, Manifest.from_content(content, "this"))
    assert isinstance(branched, BranchedModel)
    assert "conv.tasks.both.weight" in branched.state_dict()
    branched(images().float())["right"].sum().backward()
    assert dict(branched.named_parameters())["conv.tasks.both.weight"].grad is not None
