"""The steps of searches that draw, against the same steps written out by hand."""

from __future__ import annotations

import copy
import dataclasses
from itertools import cycle

import pytest
import torch
from torch.nn import functional as F

from recon_cli.config.loading import load_config
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import build_experiment
from recon_cli.search.chain import find_chain
from recon_cli.search.gumbel import linear
from recon_cli.search.learning import Material
from recon_cli.search.resources import Resources
from recon_cli.search.sampled import Sampled, SampledByParent, SampledByTask
from recon_cli.search.sampled_stage import SampledStage, Sampling
from tests.search import camps

STEPS, WARM = 6, 2
TASKS = tuple(camps.TASKS)
RESOURCES = Resources("operations", (10, 20, 30))
SAMPLING = Sampling(
    in_turn=True, alpha_lr=0.1, alpha_decay=0.01, annealing=linear, first=3.0, last=1.0, warm_up=0.34,
    resource_weight=0.5,
)  # fmt: skip


def prepared(config, kind, accumulate: int):
    """A supernet, what it learns from, and the batches of training and of validation data."""
    optimizer = {"target": "SGD", "kwargs": {"lr": 0.2}, "accumulate": accumulate}
    loaded = load_config(config(**camps.config(1, {}, optimizer=optimizer)))
    experiment = build_experiment(loaded, seed=0, device=torch.device("cpu"), checkpoint=None)
    training, validation = ([Batch(x, labels) for x, labels in camps.batches(1, seed)] for seed in (0, 1))
    object.__setattr__(experiment, "batches", cycle(training))
    supernet = kind(find_chain(experiment.model, TASKS, training[0]), TASKS)
    return supernet, Material(loaded.config, experiment, cycle(validation)), training, validation


def loss_on(supernet: Sampled, batch: Batch) -> torch.Tensor:
    outputs = supernet(batch.inputs)
    return sum(F.mse_loss(outputs[task], batch.targets[task]) for task in TASKS) / len(TASKS)


def penalty(supernet: Sampled) -> torch.Tensor:
    """Half the part of what can be shared that is not."""
    copies = supernet.expected_copies()
    return 0.5 * (copies @ torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64) / 60 - 1) / 3


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("kind", "in_turn"), [(SampledByTask, True), (SampledByParent, False)])
def test_steps_are_the_same_as_by_hand(config, kind, in_turn, accumulate):
    supernet, material, training, validation = prepared(config, kind, accumulate)
    mine = copy.deepcopy(supernet)
    stage = SampledStage(material, supernet, dataclasses.replace(SAMPLING, in_turn=in_turn), RESOURCES, STEPS)
    adam = torch.optim.Adam(mine.alphas, lr=0.1, weight_decay=0.01)
    weights = [parameter for parameter in mine.parameters() if parameter.requires_grad]
    sgd = torch.optim.SGD(weights, lr=0.2)
    train, validate = cycle(training), cycle(validation)
    for step in range(STEPS):
        torch.manual_seed(step)
        stage.advance()
        torch.manual_seed(step)
        warm = step < WARM
        mine.temperature = None if warm else 3 - 2 * (step - WARM) / (STEPS - 1 - WARM)
        for alpha in mine.alphas:
            alpha.requires_grad_(True)
        if in_turn and not warm:
            gradients = torch.autograd.grad(loss_on(mine, next(validate)) + penalty(mine), [*mine.alphas])
            for alpha, gradient in zip(mine.alphas, gradients, strict=True):
                alpha.grad = gradient
            adam.step()
        loss = sum(loss_on(mine, next(train)) for _ in range(accumulate)) / accumulate
        total = loss if in_turn or warm else loss + penalty(mine)
        gradients = torch.autograd.grad(total, [*mine.alphas, *weights], allow_unused=True)
        for parameter, gradient in zip([*mine.alphas, *weights], gradients, strict=True):
            parameter.grad = gradient
            parameter.requires_grad_(False)
        if not in_turn and not warm:
            adam.step()
        sgd.step()
        for parameter in weights:
            parameter.requires_grad_(True)
        for name, value in supernet.state_dict().items():
            torch.testing.assert_close(value, mine.state_dict()[name], rtol=1e-4, atol=1e-6, msg=f"{step} {name}")
        assert any(bool(alpha.any()) for alpha in supernet.alphas) is not warm
    record = stage.record()
    assert record.steps == STEPS
    assert record.resource.shared == 60
    assert record.resource.expected == pytest.approx(60 * (1 + 6 * float(penalty(mine))), rel=1e-4)
    for choices, alpha in zip(record.sampled, mine.alphas, strict=True):
        torch.testing.assert_close(torch.tensor(choices.probabilities), alpha.detach().softmax(1), rtol=1e-4, atol=1e-5)
        assert [copy - 1 for copy in choices.chosen] == alpha.argmax(1).tolist()


def test_in_half_precision_alpha_moves_by_what_it_is(config):
    """float16 losses are scaled, and alpha's gradients come without the scale."""
    supernet, material, _, _ = prepared(config, SampledByParent, 1)
    torch.manual_seed(1)
    for parameter in [*supernet.parameters()]:
        # Equal copies would give alpha no gradient.
        torch.nn.init.normal_(parameter)
    mine = dataclasses.replace(SAMPLING, in_turn=False, warm_up=0.0)
    stage = SampledStage(material, supernet, mine, RESOURCES, STEPS)
    scaled = copy.deepcopy(supernet)
    own = material.config.model_copy(update={"precision": "float16"})
    training = [Batch(x, labels) for x, labels in camps.batches(1)]
    experiment = copy.copy(material.experiment)
    object.__setattr__(experiment, "batches", cycle(training))
    other = SampledStage(Material(own, experiment, None), scaled, mine, RESOURCES, STEPS)
    for each in (stage, other):
        torch.manual_seed(0)
        each.advance()
    assert other._weights.scale > 1
    assert max(float(alpha.grad.abs().max()) for alpha in supernet.alphas) > 0.1
    for one, two in zip(supernet.alphas, scaled.alphas, strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=0.1, atol=0.02)
