"""Conflict noticing, against its formula written out for gradients, and a step against one made by hand."""

from __future__ import annotations

import copy
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from recon_cli.config.loading import load_config
from recon_cli.experiment.batches import Batch
from recon_cli.experiment.build import build_experiment
from recon_cli.search.bilevel import Material, Stage
from recon_cli.search.candidates import SHARED, Candidates, own_path
from recon_cli.search.chain import find_chain
from recon_cli.search.noticing import Noticed, conflicting, is_updated


def updated_by_hand(gradients: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Eq. 5: for each module the sum of its gradients, or zero.

    :param gradients: of each module those of the tasks.
    """
    found = []
    for place, own in enumerate(gradients):
        agree = all(
            float(F.cosine_similarity(g_i, g_j, dim=0, eps=1e-12)) >= 0
            for earlier in gradients[: place + 1]
            for g_i, g_j in combinations(earlier, 2)
        )
        found.append(sum(own) if agree else torch.zeros_like(own[0]))
    return found


numbers = st.integers(-2, 2)


@given(st.integers(1, 4), st.integers(2, 4), st.data())
def test_a_module_is_updated_as_its_formula_says(modules, tasks, data):
    gradients = [
        [torch.tensor(data.draw(st.lists(numbers, min_size=3, max_size=3)), dtype=torch.float64) for _ in range(tasks)]
        for _ in range(modules)
    ]
    grams = torch.stack([torch.stack(own) @ torch.stack(own).T for own in gradients])
    by_hand = updated_by_hand(gradients)
    for own, keeps, expected in zip(gradients, is_updated(grams).tolist(), by_hand, strict=True):
        assert torch.equal(sum(own) * keeps, expected)
    assert conflicting(grams).tolist() == [
        sum(bool(g_i @ g_j < 0) for g_i, g_j in combinations(own, 2)) for own in gradients
    ]


def test_counts_add_up_over_steps():
    agree = torch.ones(3, 3)
    one = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    noticed = Noticed(["x", "y"])
    assert noticed.notice(torch.stack([agree, one])).tolist() == [True, False]
    assert noticed.notice(torch.stack([one, agree])).tolist() == [False, False]
    # Two tasks had a loss in this step.
    assert noticed.notice(torch.stack([agree, agree])[:, :2, :2]).tolist() == [True, True]
    records = {record.module: record for record in noticed.records()}
    assert [(r.pairs, r.negative, r.zeroed) for r in records.values()] == [(7, 1, 1), (7, 1, 2)]
    assert records["x"].ratio == pytest.approx(1 / 7)


def test_a_step_is_the_same_as_by_hand(config):
    steps = 6
    loaded = load_config(
        config(
            validation={"target": "tests.networks:two_task_data"},
            optimizer={"target": "SGD", "kwargs": {"lr": 0.3}},
            search={"alpha_lr": 0.1},
        )
    )
    torch.manual_seed(0)
    experiment = build_experiment(loaded, seed=0, device=torch.device("cpu"), checkpoint=None)
    experiment.model.double()
    batches = [
        Batch(batch.inputs.double(), batch.targets)
        for batch, _ in zip(experiment.batches, range(2 * steps), strict=False)
    ]
    tasks = loaded.config.task_names
    chain = find_chain(experiment.model, tasks, batches[0])
    length = len(chain.modules)
    paths = {task: [own_path(task, point, length) for point in range(1, length + 2)] for task in tasks}
    candidates = Candidates(chain, paths)
    mine = copy.deepcopy(candidates)
    material = Material(loaded.config, experiment, iter(batches[:steps]))
    object.__setattr__(experiment, "batches", iter(batches[steps:]))
    stage = Stage(material, chain, candidates, range(length))
    optimizer = torch.optim.Adam(mine.alphas, lr=0.1, weight_decay=1e-5)
    zeroed = 0
    for number in range(steps):
        stage.advance()
        for alpha in mine.alphas:
            alpha.requires_grad_(True)
        losses = losses_by_hand(mine, batches[number], tasks)
        gradients = torch.autograd.grad(sum(losses) / len(losses), [*mine.alphas])
        for alpha, gradient in zip(mine.alphas, gradients, strict=True):
            alpha.requires_grad_(False)
            alpha.grad = gradient
        optimizer.step()
        zeroed += weights_by_hand(mine, losses_by_hand(mine, batches[steps + number], tasks), length, lr=0.3)
        for name, value in candidates.state_dict().items():
            torch.testing.assert_close(value, mine.state_dict()[name], rtol=1e-5, atol=1e-7, msg=name)
    record = stage.record()
    assert sum(module.zeroed for module in record.conflicts) == zeroed > 0
    assert zeroed < steps * length
    for choice, alpha in zip(record.choices, mine.alphas, strict=True):
        assert choice.probabilities == pytest.approx(alpha.softmax(0).tolist(), abs=1e-6)


def losses_by_hand(model: Candidates, batch: Batch, tasks: tuple[str, ...]) -> list[torch.Tensor]:
    outputs = model(batch.inputs)
    return [F.cross_entropy(outputs[task], batch.targets[task]) for task in tasks]


def weights_by_hand(model: Candidates, losses: list[torch.Tensor], length: int, lr: float) -> int:
    """A step of gradient descent with Eq. 5 for the shared modules; gives how many of these were not updated."""
    modules = [[*model.copy_of(place, SHARED).parameters()] for place in range(length)]
    others = [p for p in model.parameters() if p.requires_grad and not any(p is own for m in modules for own in m)]
    of_modules = [
        [torch.cat([g.flatten() for g in torch.autograd.grad(loss, own, retain_graph=True)]) for loss in losses]
        for own in modules
    ]
    updates = updated_by_hand(of_modules)
    rest = torch.autograd.grad(sum(losses) / len(losses), others)
    with torch.no_grad():
        for own, update in zip(modules, updates, strict=True):
            for parameter, part in zip(own, update.split([p.numel() for p in own]), strict=True):
                parameter -= lr * part.view_as(parameter) / len(losses)
        for parameter, gradient in zip(others, rest, strict=True):
            parameter -= lr * gradient
    return sum(not bool(update.any()) for update in updates)
