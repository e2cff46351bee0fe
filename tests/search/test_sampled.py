"""Supernets that draw, against the same passes written out by hand."""

from __future__ import annotations

import pytest
import torch

from recon_cli.experiment.batches import Batch
from recon_cli.search.chain import find_chain
from recon_cli.search.sampled import SampledByParent, SampledByTask
from tests.search import camps

BOTH = pytest.mark.parametrize("kind", [SampledByTask, SampledByParent])


def made(kind):
    torch.manual_seed(0)
    model = camps.Network()
    x = torch.randn(5, camps.WIDTH * camps.MODULES)
    supernet = kind(find_chain(model, tuple(camps.TASKS), Batch(x, None)), tuple(camps.TASKS))
    for parameter in supernet.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    for alpha in supernet.alphas:
        torch.nn.init.normal_(alpha)
    return supernet, x


def copies_of(supernet) -> list[list[torch.nn.Module]]:
    """The linear layers of the copies, by module."""
    linears = [module for module in supernet.modules() if isinstance(module, torch.nn.Linear)]
    number = len(camps.TASKS)
    return [linears[place * number : (place + 1) * number] for place in range(camps.MODULES)]


def run(place: int, linear: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    parts = list(x.split(camps.WIDTH, dim=1))
    parts[place] = linear(parts[place])
    return torch.cat(parts, dim=1)


def drawn_by_hand(supernet, temperature: float, *, hard: bool) -> torch.Tensor:
    logits = torch.stack([*supernet.alphas])
    return torch.nn.functional.gumbel_softmax(logits, temperature, hard=hard, dim=-1)


@BOTH
def test_copies_begin_as_the_network_and_in_the_warm_up_tasks_have_their_own(kind):
    supernet, x = made(kind)
    copies = copies_of(supernet)
    for place, task in enumerate(camps.TASKS):
        expected = x
        for module, of_module in enumerate(copies):
            expected = run(module, of_module[place], expected)
        torch.testing.assert_close(supernet(x)[task], expected)
    model = camps.Network()
    fresh = kind(find_chain(model, tuple(camps.TASKS), Batch(x, None)), tuple(camps.TASKS))
    for temperature in (None, 1.0):
        fresh.temperature = temperature
        for task, output in fresh(x).items():
            torch.testing.assert_close(output, model(x)[task])


def test_by_task_every_task_mixes_the_copies():
    supernet, x = made(SampledByTask)
    supernet.temperature = 0.7
    torch.manual_seed(5)
    found = supernet(x)
    torch.manual_seed(5)
    weights = drawn_by_hand(supernet, 0.7, hard=False)
    for place, task in enumerate(camps.TASKS):
        stream = x
        for module, of_module in enumerate(copies_of(supernet)):
            stream = sum(
                weight * run(module, linear, stream)
                for weight, linear in zip(weights[module, place], of_module, strict=True)
            )
        torch.testing.assert_close(found[task], stream)


def test_by_parent_every_reader_reads_one_copy():
    supernet, x = made(SampledByParent)
    supernet.temperature = 0.7
    torch.manual_seed(5)
    found = supernet(x)
    torch.manual_seed(5)
    parents = drawn_by_hand(supernet, 0.7, hard=True).argmax(-1).tolist()

    def result(module: int, number: int) -> torch.Tensor:
        read = x if module == 0 else result(module - 1, parents[module - 1][number])
        return run(module, copies_of(supernet)[module][number], read)

    for place, task in enumerate(camps.TASKS):
        torch.testing.assert_close(found[task], result(camps.MODULES - 1, parents[-1][place]))


@BOTH
def test_weights_have_the_same_gradients_whether_alpha_is_learned(kind):
    supernet, x = made(kind)
    supernet.temperature = 0.5
    gradients = []
    for learned in (False, True):
        supernet.zero_grad()
        torch.manual_seed(3)
        with supernet.with_alpha() as alphas:
            for alpha in alphas:
                alpha.requires_grad_(learned)
            sum(output.square().sum() for output in supernet(x).values()).backward()
        gradients.append([torch.zeros(2, 2) if p.grad is None else p.grad.clone() for p in weights_of(supernet)])
        assert all((alpha.grad is not None) is learned for alpha in supernet.alphas)
    for without, having in zip(*gradients, strict=True):
        torch.testing.assert_close(without, having)


@BOTH
def test_weights_are_fixed_while_alpha_alone_is_learned(kind):
    supernet, x = made(kind)
    supernet.temperature = 0.5
    with supernet.learning_alpha() as alphas:
        sum(output.square().sum() for output in supernet(x).values()).backward()
        assert all(bool(alpha.grad.any()) for alpha in alphas)
    assert all(parameter.grad is None for parameter in weights_of(supernet))
    assert not any(alpha.requires_grad for alpha in supernet.alphas)


def weights_of(supernet) -> list[torch.nn.Parameter]:
    return [linear.weight for of_module in copies_of(supernet) for linear in of_module]
