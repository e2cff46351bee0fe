"""The network of Census-Income."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from recon_cli.datasets import small_census_income
from recon_cli.zoo import census_mlp


def test_it_takes_the_features_of_the_data_and_gives_a_logit_for_each_task():
    data = small_census_income()
    features, labels = data.batch(torch.arange(6))
    outputs = census_mlp()(features)
    assert {task: tuple(output.shape) for task, output in outputs.items()} == dict.fromkeys(labels, (6,))


def test_it_computes_two_layers_and_a_head():
    model = census_mlp(features=5, width=4).double().eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    p = dict(model.named_parameters())
    hidden = (x @ p["fc1.weight"].T + p["fc1.bias"]).clamp(min=0)
    hidden = (hidden @ p["fc2.weight"].T + p["fc2.bias"]).clamp(min=0)
    expected = hidden @ p["heads.marital.weight"][0] + p["heads.marital.bias"]
    torch.testing.assert_close(model(x)["marital"], expected)


def test_it_drops_out_in_training_only():
    model, x = census_mlp(features=5, width=1000), torch.randn(1, 5)
    torch.manual_seed(0)
    assert not torch.equal(model(x)["income"], model(x)["income"])
    model.eval()
    assert torch.equal(model(x)["income"], model(x)["income"])


def test_it_learns_every_task_of_the_data_that_ships():
    torch.manual_seed(0)
    data, model = small_census_income(), census_mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def losses(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        x, labels = data.batch(rows)
        return {task: F.binary_cross_entropy_with_logits(output, labels[task]) for task, output in model(x).items()}

    before = losses(torch.arange(2000))
    for rows in torch.randperm(len(data)).split(256):
        optimizer.zero_grad()
        torch.stack(list(losses(rows).values())).mean().backward()
        optimizer.step()
    after = losses(torch.arange(2000))
    assert all(after[task] < 0.8 * before[task] for task in before)
