"""Batches from data that fails, in this process and in workers."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from torch.utils.data import Dataset

from recon_cli.config.schema import DataSection, ValidationSection
from recon_cli.errors import ReconError
from recon_cli.experiment.batches import Batches
from recon_cli.experiment.validation import ValidationData


class Failing(Dataset):
    def __init__(self, refuses: bool) -> None:
        self.refuses = refuses

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index < 5:
            return torch.zeros(2), torch.zeros(())
        if self.refuses:
            raise ReconError(f"`{index}.npy` is damaged: it ends early", "download it again")
        raise ValueError(f"no item {index}")


def batches(workers: int, *, refuses: bool) -> Batches:
    section = DataSection(
        target=f"{__name__}:Failing", kwargs={"refuses": refuses}, batch_size=2, shuffle=False, workers=workers
    )
    return Batches(section, 0, torch.device("cpu"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        (True, r"^`5.npy` is damaged: it ends early$"),
        (False, r"^data.target `.*:Failing` failed: ValueError: no item 5$"),
    ],
)
def test_an_error_of_the_data_is_one_sentence_and_ends_the_workers(workers, refuses, words):
    data = batches(workers, refuses=refuses)
    next(data)
    assert len(multiprocessing.active_children()) == workers
    next(data)
    with pytest.raises(ReconError, match=words):
        next(data)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_so_is_an_error_of_validation_data(workers):
    data = ValidationData(
        ValidationSection(target=f"{__name__}:Failing", kwargs={"refuses": False}, batch_size=2, workers=workers),
        DataSection(target="a:b"),
        torch.device("cpu"),
    )
    with pytest.raises(ReconError, match=r"^validation.target `.*:Failing` failed: ValueError: no item 5$"):
        list(data)
    assert multiprocessing.active_children() == []
