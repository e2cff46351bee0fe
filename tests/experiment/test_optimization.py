"""The optimizer's steps, against plain torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from recon_cli.config.schema import Config
from recon_cli.errors import ReconError
from recon_cli.experiment.optimization import Optimization

CPU = torch.device("cpu")


def config(**parts: object) -> Config:
    return Config.model_validate(
        {
            "model": {"target": "a:b"},
            "tasks": [{"name": name, "loss": "mse_loss", "label": 0} for name in ("one", "two")],
            "data": {"target": "a:b"},
            "optimizer": {"target": "SGD", "kwargs": {"lr": 1.0}},
            **parts,
        }
    )


def with_gradient(*values: float) -> nn.Module:
    """A module of one parameter, all zeros, that has this gradient."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(len(values)))
    module.weight.grad = torch.tensor(values)
    return module


@pytest.mark.parametrize(("limit", "expected"), [(None, [-3.0, -4.0]), (10.0, [-3.0, -4.0]), (0.5, [-0.3, -0.4])])
def test_gradients_are_clipped_to_a_norm_of_all_parameters(limit, expected):
    module = with_gradient(3.0, 4.0)
    optimizer = {"target": "SGD", "kwargs": {"lr": 1.0}, "clip_norm": limit}
    Optimization(config(optimizer=optimizer), module, CPU).step()
    assert module.weight.tolist() == pytest.approx(expected, abs=1e-5)


def test_frozen_parameters_are_neither_moved_nor_counted_in_the_norm():
    module = with_gradient(3.0, 4.0)
    module.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    module.frozen.grad = torch.tensor([1e6])
    optimizer = {"target": "SGD", "kwargs": {"lr": 1.0}, "clip_norm": 0.5}
    Optimization(config(optimizer=optimizer), module, CPU).step()
    assert module.weight.tolist() == pytest.approx([-0.3, -0.4], abs=1e-5)
    assert module.frozen.item() == 1.0
    module.weight.requires_grad_(False)
    with pytest.raises(ReconError, match="no trainable parameter"):
        Optimization(config(), module, CPU)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_a_schedule_moves_on_when_it_is_its_turn(per):
    section = {"target": "ExponentialLR", "kwargs": {"gamma": 0.5}, "per": per}
    optimization = Optimization(config(scheduler=section), with_gradient(1.0), CPU)
    rates = [optimization.rates]
    for _ in range(2):
        for _ in range(3):
            optimization.step()
        rates.append(optimization.rates)
        optimization.after_epoch(1.0)
    turns = [0, 3, 6] if per == "step" else [0, 0, 1]
    assert rates == [[0.5**turn] for turn in turns]


def test_a_plateau_is_one_of_the_values_that_it_is_told():
    section = {"target": "ReduceLROnPlateau", "kwargs": {"patience": 1}}
    optimization = Optimization(config(scheduler=section), with_gradient(1.0), CPU)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = lr_scheduler.ReduceLROnPlateau(other, patience=1)
    for value in (1.0, 0.5, 0.6, 0.7, 0.4, 0.4, 0.4, 0.4):
        optimization.step()
        optimization.after_epoch(value)
        expected.step(value)
        assert optimization.rates == [other.param_groups[0]["lr"]]
    assert optimization.rates == [pytest.approx(0.01)]
    assert optimization.awaits == "min"


def test_only_a_plateau_awaits_values():
    section = {"target": "StepLR", "kwargs": {"step_size": 1}}
    assert Optimization(config(scheduler=section), with_gradient(1.0), CPU).awaits is None
    assert Optimization(config(), with_gradient(1.0), CPU).awaits is None


def test_gradients_of_scaled_losses_move_as_much_as_plain_ones():
    optimizer = {"target": "SGD", "kwargs": {"lr": 1.0}, "clip_norm": 0.5}
    module = with_gradient(0.0, 0.0)
    optimization = Optimization(config(precision="float16", optimizer=optimizer), module, CPU)
    assert optimization.scale > 1
    module.weight.grad = torch.tensor([3.0, 4.0]) * optimization.scale
    optimization.step()
    assert module.weight.tolist() == pytest.approx([-0.3, -0.4], abs=1e-5)


def test_a_step_that_overflowed_is_not_made_and_the_scale_falls():
    module = with_gradient(1.0)
    optimization = Optimization(config(precision="float16"), module, CPU)
    before = optimization.scale
    optimization.skip()
    assert optimization.scale == before / 2
    module.weight.grad = torch.tensor([float("inf")])
    optimization.step()
    assert module.weight.item() == 0.0
    assert optimization.scale == before / 4


def test_a_step_that_is_left_out_is_one_of_the_schedule():
    section = {"target": "StepLR", "kwargs": {"step_size": 1, "gamma": 0.5}, "per": "step"}
    optimization = Optimization(config(precision="float16", scheduler=section), with_gradient(float("inf")), CPU)
    optimization.step()
    optimization.skip()
    assert optimization.rates == [0.25]


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_forward_passes_run_in_the_precision(precision, expected):
    optimization = Optimization(config(precision=precision), with_gradient(1.0), CPU)
    layer = nn.Linear(2, 2)
    with optimization.forward():
        assert layer(torch.ones(1, 2)).dtype == expected
    assert layer(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_another_one_goes_on_from_the_state(precision):
    parts = {
        "optimizer": {"target": "Adam", "kwargs": {"lr": 0.1}},
        "scheduler": {"target": "OneCycleLR", "kwargs": {"max_lr": 0.5, "total_steps": 9}, "per": "step"},
        "precision": precision,
    }

    def moved(optimization: Optimization, module: nn.Module, steps: range) -> list[float]:
        for step in steps:
            module.weight.grad = torch.tensor([1.0 + step, 2.0]) * optimization.scale
            optimization.step()
        return [*module.weight.tolist(), *optimization.rates, optimization.scale]

    first = with_gradient(0.0, 0.0)
    whole = Optimization(config(**parts), first, CPU)
    moved(whole, first, range(4))
    second = with_gradient(0.0, 0.0)
    rest = Optimization(config(**parts), second, CPU)
    # Tensors of a state are the optimizer's own, which goes on to change them.
    rest.restore(copy.deepcopy(whole.state()))
    second.weight.data.copy_(first.weight.data)
    assert moved(rest, second, range(4, 9)) == moved(whole, first, range(4, 9))
