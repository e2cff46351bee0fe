"""What a branching costs: against the operations of the network that is split so."""

from __future__ import annotations

import torch
from torch import nn

from recon_cli.branching.plan import split_per_task
from recon_cli.branching.streams import count_flops
from recon_cli.dataflow.recording import record
from recon_cli.experiment.batches import Batch
from recon_cli.search.chain import find_chain
from recon_cli.search.resources import Resources

TASKS = ("left", "right", "other")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.second = nn.Conv2d(4, 8, 3)
        self.third = nn.Linear(8, 5)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3))
        x = torch.relu(self.third(x))
        return {task: head(x) for task, head in self.heads.items()}


def known():
    model = Network()
    batch = Batch(torch.randn(2, 1, 8, 8), None)
    chain = find_chain(model, TASKS, batch)
    return chain, record(model, TASKS, lambda: model(batch.inputs))


def test_operations_are_those_of_the_network_that_is_split():
    chain, flow = known()
    resources = Resources.of(chain, TASKS, flow)
    assert resources.unit == "operations"
    # Twice the products: of kernels at the places of their outputs, and of matrices.
    assert resources.modules == (2 * 2 * 6 * 6 * 4 * 9, 2 * 2 * 4 * 4 * 8 * 9 * 4, 2 * 2 * 8 * 5)
    heads = count_flops(flow, ()) - resources.shared
    for first in range(len(chain.modules)):
        layers = [
            split_per_task(layer.name, layer.aliases, TASKS)
            for module in chain.modules[first:]
            for layer in module.layers
        ]
        copies = torch.tensor([1.0 if place < first else 3.0 for place in range(3)], dtype=torch.float64)
        assert float(resources.total(copies)) == count_flops(flow, layers) - heads


def test_without_a_data_flow_they_are_parameters():
    chain, _ = known()
    resources = Resources.of(chain, TASKS, None)
    assert (resources.unit, resources.modules) == ("parameters", (40, 296, 45))


def test_the_loss_is_the_part_that_is_not_shared():
    resources = Resources("operations", (10, 30))
    assert float(resources.loss(torch.tensor([1.0, 1.0]), 3)) == 0
    assert float(resources.loss(torch.tensor([3.0, 3.0]), 3)) == 1
    assert float(resources.loss(torch.tensor([1.0, 2.0]), 3)) == 30 / 80
