"""Validation data: all of it, in order, the same every time, shared by the ranks."""

from __future__ import annotations

import pytest
import torch

from recon_cli.config.schema import DataSection, ValidationSection
from recon_cli.errors import ReconError
from recon_cli.experiment.ranks import Ranks
from recon_cli.experiment.validation import ValidationData
from tests import networks

CPU = torch.device("cpu")
TRAINING = DataSection(target="a:b", batch_size=8)


def validation(target: str, ranks: Ranks | None = None, **section: object) -> ValidationData:
    parts = {"target": f"tests.networks:{target}", **section}
    return ValidationData(ValidationSection(**parts), TRAINING, CPU, ranks or Ranks())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [None, 5, 100])
def test_every_item_comes_once_and_in_order(workers, batch_size):
    data = validation("two_task_data", batch_size=batch_size, workers=workers, kwargs={"size": 21})
    expected = networks.TwoTaskData(21).images
    for _ in range(2):
        batches = [batch.inputs for batch in data]
        assert torch.equal(torch.cat(batches), expected)
        assert len(batches[0]) == min(batch_size or 8, 21)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("target", ["two_task_data", "generator_of_batches"])
def test_ranks_share_all_batches(size, target):
    alone = [batch.inputs for batch in validation(target)]
    shared = [[batch.inputs for batch in validation(target, Ranks(size, rank))] for rank in range(size)]
    assert sum(map(len, shared)) == len(alone)
    for place, batch in enumerate(alone):
        assert torch.equal(shared[place % size][place // size], batch)


@pytest.mark.parametrize("workers", [0, 1])
def test_noise_that_workers_draw_is_the_same_every_time(workers):
    data = validation("Noisy", workers=workers)
    torch.manual_seed(1)
    first = torch.cat([batch.inputs for batch in data])
    torch.manual_seed(1)
    assert torch.equal(first, torch.cat([batch.inputs for batch in data]))
    assert torch.equal(first, torch.cat([batch.inputs for batch in data])) == (workers > 0)


@pytest.mark.parametrize(("size", "ranks"), [(40, 2), (40, 3), (40, 5), (8, 3)])
def test_ranks_that_have_a_batch_less_can_borrow_one(size, ranks):
    passes = []
    for rank in range(ranks):
        data = validation("two_task_data", Ranks(ranks, rank), kwargs={"size": size})
        assert data.filler is None
        passes.append(len(list(data)) + (data.filler is not None))
        assert data.filler is None or data.filler.inputs.shape == (8, 1, 5, 5)
    assert passes == [-(-size // 8 // ranks)] * ranks


@pytest.mark.parametrize("target", ["nothing", "two_task_data"])
def test_data_that_gives_nothing_is_refused(target):
    with pytest.raises(ReconError, match="gave no batch|is empty"):
        list(validation(target, kwargs={} if target == "nothing" else {"size": 0}))


def test_data_that_cannot_be_gone_through_again_is_refused():
    data = validation("generator_of_batches")
    assert len(list(data)) == 3
    with pytest.raises(ReconError, match="gave no batch"):
        list(data)


def test_the_key_of_the_inputs_is_its_own_or_that_of_the_training():
    own = validation("list_of_mappings", inputs="image")
    training = DataSection(target="a:b", inputs="image")
    section = ValidationSection(target="tests.networks:list_of_mappings")
    for data in (own, ValidationData(section, training, CPU)):
        (batch,) = data
        assert batch.inputs.shape == (8, 1, 5, 5)
    with pytest.raises(ReconError, match="has no key `inputs`"):
        list(validation("list_of_mappings"))


def test_data_that_fails_is_named():
    with pytest.raises(ReconError, match="validation.target `tests.networks:Breaking` failed: ValueError: a hole"):
        list(validation("Breaking"))
