"""A second forward pass that nothing can tell to have been made."""

from __future__ import annotations

import copy
import pickle
import random

import numpy
import pytest
import torch
from torch import nn

from recon_cli.updating.second_forward import SecondForward


class Noisy(nn.Module):
    """Draws from three libraries, and keeps statistics and a count of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.drop(self.norm(x)) * random.random() * numpy.random.rand() + torch.randn(3)


def everything(network):
    """All that a forward pass changes."""
    buffers = [buffer.clone() for buffer in network.buffers()]
    return [*buffers, network.calls, torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()]


def same(one, other):
    return all(
        torch.equal(mine, own) if isinstance(mine, torch.Tensor) else mine == own
        for mine, own in zip(one, other, strict=True)
    )


def test_it_draws_what_the_first_pass_drew_and_leaves_everything_as_it_was():
    network = Noisy()
    second = SecondForward(network)
    x = torch.rand(8, 3)
    for _ in range(3):
        first = network(x).detach()
        second.close_first()
        # Whatever the optimizer, or the user's own code, draws meanwhile.
        torch.rand(5)
        random.random()
        before = everything(network)
        assert torch.equal(second.run(lambda: network(x)), first)
        assert same(everything(network), before)


def test_it_begins_where_the_first_of_several_passes_of_a_step_did():
    network = Noisy()
    second = SecondForward(network)
    x, y = torch.rand(8, 3), torch.rand(8, 3)
    first = [network(x).detach(), network(y).detach()]
    second.close_first()
    again = second.run(lambda: [network(x), network(y)])
    assert all(torch.equal(mine, own) for mine, own in zip(first, again, strict=True))


def test_passes_without_a_gradient_begin_no_step():
    network = Noisy()
    second = SecondForward(network)
    x = torch.rand(8, 3)
    with torch.no_grad():
        network(x)
    first = network(x).detach()
    second.close_first()
    assert torch.equal(second.run(lambda: network(x)), first)


def test_a_step_without_a_second_pass_is_over_when_the_next_one_begins():
    network = Noisy()
    second = SecondForward(network)
    x = torch.rand(8, 3)
    for _ in range(2):
        first = network(x).detach()
        second.close_first()
    assert torch.equal(second.run(lambda: network(x)), first)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_network():
    network = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)))
    second = SecondForward(network)
    x = torch.rand(8, 3)
    first = network(x).detach()
    second.close_first()
    assert torch.equal(second.run(lambda: network(x)), first)


def test_copies_and_files_of_the_network_work_on_their_own():
    network = Noisy()
    second = SecondForward(network)
    x = torch.rand(8, 3)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other(x).shape == (8, 3)
    first = network(x).detach()
    second.close_first()
    assert torch.equal(second.run(lambda: network(x)), first)
