"""Branched networks compared with what they were split from, by running both."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import recon_cli
from recon_cli.artifacts.manifest import Branch
from recon_cli.errors import ReconError
from recon_cli.zoo import small_resnet
from tests.branching.catalogue import CATALOGUE
from tests.branching.test_module import manifest_of

TASKS = ("fashion", "mnist")


@pytest.fixture
def split(tmp_path):
    """A network, its branched form, the manifest, and a batch."""
    model = small_resnet()
    manifest = manifest_of(model, ["layer3.0.conv1", "layer3.0.bn1"], TASKS, tmp_path)
    (batch,) = CATALOGUE["basic blocks"].inputs()
    return model, recon_cli.branch(copy.deepcopy(model), manifest), manifest, batch.float()


@pytest.mark.parametrize("training", [True, False])
def test_a_fresh_split_agrees_and_nothing_is_changed_by_looking(split, training):
    model, branched, manifest, batch = split
    model.train(training)
    branched.train(training)
    before = [copy.deepcopy(network.state_dict()) for network in (model, branched)]
    draws = torch.get_rng_state()
    assert recon_cli.verify_network(model, branched, manifest, batch) == []
    assert torch.equal(torch.get_rng_state(), draws)
    for network, state in zip((model, branched), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


def test_copies_that_were_trained_apart_are_told(split):
    model, branched, manifest, batch = split
    with torch.no_grad():
        branched.get_parameter("layer3.0.conv1.tasks.mnist.weight").mul_(1.1)
    problems = recon_cli.verify_network(model.eval(), branched.eval(), manifest, batch)
    assert "the output of task `mnist` is not the source's" in problems
    assert not any("output of task `fashion`" in problem for problem in problems)


def test_losses_that_reach_other_tasks_branches_are_told(split):
    model, branched, manifest, batch = split
    layers = tuple(
        layer.model_copy(
            update={
                "branches": tuple(
                    Branch(id=branch.id, tasks=other.tasks)
                    for branch, other in zip(layer.branches, reversed(layer.branches), strict=True)
                )
            }
        )
        for layer in manifest.layers
    )
    turned = manifest.model_copy(update={"layers": layers})
    problems = recon_cli.verify_network(model, branched, turned, batch)
    assert any("the loss of task `mnist` reaches `layer3.0.conv1.tasks.mnist.weight`" in each for each in problems)


def test_gradients_that_are_not_the_sources_are_told(split):
    model, branched, manifest, batch = split

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branched = branched

        def named_parameters(self, *args, **kwargs):
            return branched.named_parameters(*args, **kwargs)

        def forward(self, x):
            # The same outputs, with twice the gradients.
            return {task: 2 * value - value.detach() for task, value in branched(x).items()}

    problems = recon_cli.verify_network(model.eval(), Doubled().eval(), manifest, batch)
    assert problems and all("is not the source's" in problem for problem in problems)
    assert any("the gradient of `conv1.weight` for task `mnist`" in problem for problem in problems)


def test_networks_that_draw_random_numbers_are_refused(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2))

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = model

        def forward(self, x):
            return self.trunk(x).unbind(1)

    manifest = manifest_of(Both(), ["trunk.0"], ("a", "b"), tmp_path)
    with pytest.raises(ReconError, match="draws random numbers"):
        recon_cli.verify_network(Both(), recon_cli.branch(Both(), manifest), manifest, torch.rand(2, 3))
