"""The network of a search: mixtures of candidate paths, and which of them is chosen."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recon_cli.experiment.batches import Batch
from recon_cli.search.candidates import SHARED, Candidates, branch_point, own_path, partition
from recon_cli.search.chain import Chain, find_chain

TASKS = ("a", "b")


class Convs(nn.Module):
    """A trunk of a convolution with a normalisation, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.one = nn.Linear(3, 4)
        self.two = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.norm(self.conv(x)).relu().mean(dim=(2, 3))
        x = self.two(self.one(x).relu()).relu()
        return {task: head(x) for task, head in self.heads.items()}


def images() -> torch.Tensor:
    return torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Convs().double()


@pytest.fixture
def chain(model: nn.Module) -> Chain:
    return find_chain(model, TASKS, Batch(images(), None))


def all_points(chain: Chain, tasks: tuple[str, ...] = TASKS) -> dict[str, list[tuple[str, ...]]]:
    length = len(chain.modules)
    return {task: [own_path(task, point, length) for point in range(1, length + 2)] for task in tasks}


def moved(module: nn.Module, seed: int) -> None:
    """Other weights, so that no two copies are equal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def test_copies_begin_equal_so_that_all_candidates_compute_what_the_network_does(model, chain):
    expected = copy.deepcopy(model)(images())
    found = Candidates(chain, all_points(chain))(images())
    for task in TASKS:
        torch.testing.assert_close(found[task], expected[task])


def test_a_tasks_output_is_that_of_the_weighted_sum_of_its_paths(model, chain):
    candidates = Candidates(chain, all_points(chain))
    for number, module in enumerate(candidates.copies):
        moved(module, number)
    for number, alpha in enumerate(candidates.alphas):
        alpha.data.copy_(torch.tensor([0.3, -1.2, 0.8, 0.1]) * (number + 1))
    found = candidates(images())
    # By hand, each path by itself, with the network's own modules and copies of them in the user's own code.
    for number, task in enumerate(TASKS):
        weights = candidates.alphas[number].exp() / candidates.alphas[number].exp().sum()
        total = 0.0
        for point in (1, 2, 3, 4):
            state = {}
            for place in range(3):
                owner = SHARED if place + 1 < point else task
                state |= candidates.copy_of(place, owner).state_dict()
            own = copy.deepcopy(model)
            own.load_state_dict({**own.state_dict(), **state})
            own.heads = nn.ModuleDict({task: nn.Identity()})
            total = total + weights[point - 1].double() * own(images())[task]
        torch.testing.assert_close(found[task], model.heads[task](total), rtol=1e-7, atol=1e-7)


def test_equal_beginnings_of_paths_run_once(chain):
    candidates = Candidates(chain, all_points(chain))
    runs: dict[int, int] = {}
    for number, module in enumerate(candidates.copies):
        module.register_forward_hook(lambda *_, number=number: runs.update({number: runs.get(number, 0) + 1}))
    candidates(images())
    counts = {step: runs[number] for step, number in candidates._numbers.items()}
    assert counts == {
        **{(place, SHARED): 1 for place in range(3)},
        **{(place, task): place + 1 for place in range(3) for task in TASKS},
    }


def test_alpha_is_learned_with_fixed_weights_and_weights_with_a_fixed_alpha(chain):
    candidates = Candidates(chain, all_points(chain))
    for number, module in enumerate(candidates.copies):
        moved(module, number)
    weights = [parameter for parameter in candidates.parameters() if parameter.requires_grad]
    assert not any(alpha.requires_grad for alpha in candidates.alphas)
    assert len(weights) == sum(len([*module.parameters()]) for module in (*candidates.copies, *candidates.heads))
    with candidates.learning_alpha() as alphas:
        sum(output.square().sum() for output in candidates(images()).values()).backward()
    assert all(bool(alpha.grad.any()) for alpha in alphas)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in weights)
    assert not any(alpha.requires_grad for alpha in alphas)


def test_the_most_probable_path_is_chosen_and_of_equal_ones_that_which_shares_most(chain):
    candidates = Candidates(chain, all_points(chain))
    assert {branch_point(path) for path in candidates.chosen().values()} == {4}
    candidates.alphas[0].data[1] = 0.1
    assert {task: branch_point(path) for task, path in candidates.chosen().items()} == {"a": 2, "b": 4}


@given(st.integers(1, 6), st.data())
def test_branch_points_and_paths_are_each_others_inverse(length, data):
    point = data.draw(st.integers(1, length + 1))
    path = own_path("x", point, length)
    assert len(path) == length
    assert branch_point(path) == point


def test_tasks_with_one_owner_of_a_module_share_it():
    paths = {"a": (SHARED, "g"), "b": (SHARED, "b"), "c": (SHARED, "g"), "d": ("d", "d")}
    assert partition(paths, 0) == (("a", "b", "c"), ("d",))
    assert partition(paths, 1) == (("a", "c"), ("b",), ("d",))
