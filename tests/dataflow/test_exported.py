"""The data flow of exported programs, against what torch counts when they and their forks run."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import recon_cli
from recon_cli.branching.programs.exported import fork_program
from recon_cli.branching.streams import count_flops, statistics_apart
from recon_cli.dataflow.exported import dataflow_of_program
from recon_cli.dataflow.flops import FORMULAS
from recon_cli.errors import ReconError
from tests.branching.catalogue import AB, CATALOGUE
from tests.branching.test_engines import WHERE, chosen, shared_layers
from tests.branching.test_programs import FAST, UNTRACEABLE, export, exported, plan_of, reloaded
from tests.experiment.programs import quietly


def counted(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    with torch.no_grad(), quietly(), counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in CATALOGUE
        if name not in UNTRACEABLE
    ],
)
def test_the_operations_of_a_program_and_its_forks_are_those_that_run(name, mode):
    model, inputs, held = exported(name, mode)
    # One that trains moves its buffers.
    program = reloaded(held)
    tasks = CATALOGUE[name].tasks
    flow = dataflow_of_program(program, tasks)
    assert count_flops(flow, []) == counted(lambda: program.module()(*inputs)) > 0
    layers = shared_layers(copy.deepcopy(model), tasks, inputs)
    for where in WHERE:
        plan = plan_of(model, chosen(layers, where), tasks)
        forked = fork_program(program, plan).module()
        assert count_flops(flow, plan.layers) == counted(lambda forked=forked: forked(*inputs))


def test_a_program_and_its_network_have_the_same_data_flow_whatever_the_size_of_the_batch():
    model = CATALOGUE["bottlenecks"].make()

    class OneInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x)

    inputs = (torch.rand(3, 1, 8, 8),)
    program = reloaded(export(OneInput(), inputs, dynamic=True))
    assert dataflow_of_program(program, AB) == recon_cli.dataflow_of(OneInput(), AB, *inputs)


def test_a_functional_program_moves_the_same_buffers():
    model, _, program = exported("three tasks", "train")
    with quietly():
        functional = reloaded(program.run_decompositions({}))
    tasks = CATALOGUE["three tasks"].tasks
    plan = plan_of(model, ["trunk.0"], tasks)
    found, expected = dataflow_of_program(functional, tasks), dataflow_of_program(program, tasks)
    moved = {key for operation in expected.operations for key in operation.moves}
    assert {key for operation in found.operations for key in operation.moves} == moved != set()
    assert count_flops(found, plan.layers) == count_flops(expected, plan.layers)
    assert statistics_apart(found, plan.layers) == statistics_apart(expected, plan.layers) == {"trunk.1": (0, 1, 2)}


class Choosing(nn.Module):
    """Goes one of two ways, as its input says."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.cond(x.sum() > 0, lambda x: self.one(x), lambda x: self.two(x), (x,))
        return {"a": x, "b": x + 1}


def test_a_program_whose_operations_depend_on_values_is_not_counted():
    program = export(Choosing(), (torch.rand(2, 4),))
    with pytest.raises(ReconError, match="cannot be counted"):
        dataflow_of_program(program, AB)


def test_outputs_that_do_not_fit_the_tasks_are_refused():
    _, _, program = exported("bottlenecks", "eval")
    with pytest.raises(ReconError, match="no key `c`"):
        dataflow_of_program(program, ("a", "c"))
