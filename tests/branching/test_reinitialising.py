"""Copies that begin anew, and plans that are made from a network alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import recon_cli
from recon_cli.artifacts.manifest import Branch, SplitLayer, SplitPlan
from recon_cli.branching.programs.exported import fork_program
from recon_cli.errors import ReconError
from tests import networks
from tests.experiment.programs import quietly

TASKS = ("left", "right")


def images() -> torch.Tensor:
    return torch.rand(4, 1, 5, 5)


def test_copies_but_the_first_are_as_their_layers_draw_them():
    torch.manual_seed(0)
    model = networks.two_tasks()
    before = copy.deepcopy(model.state_dict())
    plan = recon_cli.branching_plan(model, ["conv", "norm", "body.0"], TASKS)
    with torch.no_grad():
        model.norm.weight.fill_(3), model.norm.running_mean.fill_(3)
    torch.manual_seed(1)
    state = recon_cli.branch(model, plan, reinitialise=True).state_dict()
    torch.manual_seed(1)
    drawn = {"conv": nn.Conv2d(1, 4, 3, padding=1), "norm": nn.BatchNorm2d(4), "body.0": nn.Linear(4, 6)}
    for name, layer in drawn.items():
        for part, value in layer.state_dict().items():
            assert torch.equal(state[f"{name}.tasks.right.{part}"], value)
    for part in ("conv", "body.0"):
        assert torch.equal(state[f"{part}.tasks.left.weight"], before[f"{part}.weight"])
    assert torch.equal(state["norm.tasks.left.weight"], torch.full((4,), 3.0))
    assert torch.equal(state["body.2.weight"], before["body.2.weight"])
    again = recon_cli.branch(model, plan, reinitialise=True).state_dict()
    assert not torch.equal(again["conv.tasks.right.weight"], state["conv.tasks.right.weight"])
    assert all(torch.equal(state[f"conv.tasks.{task}.bias"], model.conv.bias) for task in ("left",))


def test_tasks_of_one_branch_begin_together_and_outputs_are_those_of_the_copies():
    torch.manual_seed(0)
    model = networks.ThreeTasks()
    branches = (Branch(id="x", tasks=("a",)), Branch(id="y", tasks=("b", "c")))
    plan = recon_cli.branching_plan(model, [SplitLayer(name="trunk.0", branches=branches)], list("abc"))
    branched = recon_cli.branch(copy.deepcopy(model), plan, reinitialise=True)
    x = torch.rand(3, 4, dtype=torch.float64)
    expected = model(x, "abc")
    own = copy.deepcopy(model)
    own.trunk[0].load_state_dict(branched.get_submodule("trunk.0.tasks.y").state_dict())
    found, other = branched(x, "abc"), own(x, "abc")
    assert torch.equal(found["a"], expected["a"])
    assert all(torch.equal(found[task], other[task]) and not torch.equal(found[task], expected[task]) for task in "bc")


def test_tied_weights_stay_tied_and_are_drawn_by_the_first_of_their_layers():
    torch.manual_seed(0)
    model = networks.Tied()
    plan = recon_cli.branching_plan(model, ["embed"], ("word", "kind"))
    assert plan.layers[0].aliases == ("decode",)
    branched = recon_cli.branch(model, plan, reinitialise=True)
    embed, decode = (branched.get_submodule(f"{name}.tasks.kind") for name in ("embed", "decode"))
    assert embed.weight is decode.weight
    # Normally distributed, while a linear layer of this size would stay below 1/2.
    assert embed.weight.abs().max() > 0.5


@pytest.mark.parametrize(
    ("model", "layer", "reason"),
    [
        (networks.Attention(), "block.self_attn", "its tensors are copied one by one"),
        (networks.Attention(), "position", "its tensors are copied one by one"),
        (nn.Sequential(nn.ParameterDict({"w": torch.ones(2)})), "0", "`ParameterDict` has no `reset_parameters`"),
        (networks.Recurrent(), "scale", "does not set `parametrizations.weight.original0`"),
    ],
)  # fmt: skip
def test_layers_that_cannot_draw_their_weights_are_refused(model, layer, reason):
    plan = recon_cli.branching_plan(model, [layer], ("one", "two"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ReconError, match=reason) as caught:
        recon_cli.branch(model, plan, reinitialise=True)
    assert f"the copies of the layer `{layer}` cannot begin anew" in caught.value.message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_plan_is_made_from_a_network_and_a_batch():
    torch.manual_seed(0)
    model, x = networks.two_tasks().train(), images()
    before = copy.deepcopy(model.state_dict())
    plan = recon_cli.branching_plan(model, ["conv"], TASKS, x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [(each.name, len(each.branches)) for each in plan.statistics] == [("norm", 2)]
    with quietly():
        module = fork_program(torch.export.export(copy.deepcopy(model), (x,)), plan).module()
    branched = recon_cli.branch(copy.deepcopy(model), plan)
    module(x), branched(x)
    state = branched.state_dict()
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert recon_cli.branching_plan(model, ["conv"], TASKS).statistics is None
    with pytest.raises(ReconError, match="the model has no layer `cnov`"):
        recon_cli.branching_plan(model, ["cnov"], TASKS)


def test_a_tied_norm_has_statistics_of_its_own_under_all_its_names():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.again = self.norm
            self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.again(torch.relu(self.norm(self.first(x))))
            return self.left(x), self.right(x)

    torch.manual_seed(0)
    model, x = Twice().double(), torch.rand(5, 4, dtype=torch.float64)
    branched = recon_cli.branch(copy.deepcopy(model), recon_cli.branching_plan(model, ["first"], TASKS, x))
    separate = copy.deepcopy(model)
    branched(x), separate(x)
    state, expected = branched.state_dict(), separate.state_dict()
    for name in ("norm", "again"):
        for part in ("running_mean", "running_var", "num_batches_tracked"):
            for task in TASKS:
                assert torch.equal(state[f"{name}.{part}.tasks.{task}"], expected[f"{name}.{part}"])


def test_a_plan_of_the_command_branches_a_network(recon, checkpoint):
    split = ["split", checkpoint, "--layers", "conv", "--tasks", "left,right"]
    Path("plan.json").write_text(recon(*split, "--dry-run", "--json").succeeds().out)
    recon(*split, "-o", "b.safetensors").succeeds()
    model = networks.two_tasks()
    expected = recon_cli.branch(copy.deepcopy(model), "b.safetensors").state_dict()
    for plan in ("plan.json", SplitPlan.read(Path("plan.json"))):
        assert recon_cli.branch(copy.deepcopy(model), plan).state_dict().keys() == expected.keys()
