"""Census-Income (KDD), as GradOPS (Zhu et al.) and MMoE (Ma et al., 2018) make three tasks of it.

    income     above 50,000 dollars a year
    marital    never married
    education  at least college: whoever has been to one, with or without a degree

The tasks' own columns and the instance weight are no features. Numbers are standardised by the training rows, and every
other column is one-hot: of the values that the training rows have, a missing one (`?`) among them. A value that they do
not have is all zeros.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import Dataset

from recon_cli.datasets.census_file import COLUMNS, read_rows
from recon_cli.errors import ReconError, listed, quoted

Part = Literal["train", "validation", "test"]

SMALL_DATA = Path(__file__).parent / "data"
VOCABULARY = SMALL_DATA / "census-income-vocabulary.json"

LEVELS: dict[str, tuple[str, dict[str, bool]]] = {
    "income": ("income", {"- 50000.": False, "50000+.": True}),
    "marital": (
        "marital status",
        {
            "Divorced": False,
            "Married-A F spouse present": False,
            "Married-civilian spouse present": False,
            "Married-spouse absent": False,
            "Never married": True,
            "Separated": False,
            "Widowed": False,
        },
    ),
    "education": (
        "education",
        {
            "Children": False,
            "Less than 1st grade": False,
            "1st 2nd 3rd or 4th grade": False,
            "5th or 6th grade": False,
            "7th and 8th grade": False,
            "9th grade": False,
            "10th grade": False,
            "11th grade": False,
            "12th grade no diploma": False,
            "High school graduate": False,
            "Some college but no degree": True,
            "Associates degree-occup /vocational": True,
            "Associates degree-academic program": True,
            "Bachelors degree(BA AB BS)": True,
            "Masters degree(MA MS MEng MEd MSW MBA)": True,
            "Prof school degree (MD DDS DVM LLB JD)": True,
            "Doctorate degree(PhD EdD)": True,
        },
    ),
}
"""Each task's column, and which of its values are positive."""

TASKS = tuple(LEVELS)

# UCI's names, and those under which others hand the files on.
_FILES = {
    "train": ("census-income.data", "census_income_1994_1995_train.csv"),
    "test": ("census-income.test", "census_income_1994_1995_test.csv"),
}

Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Vocabulary:
    """What the features are: the numbers first, then a column for each value of the others.

    :ivar numerical: column -> mean and standard deviation of the training rows.
    :ivar categorical: column -> the values of the training rows.
    """

    numerical: Mapping[str, tuple[float, float]]
    categorical: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls) -> Vocabulary:
        """The vocabulary of the full training part, which ships with Recon."""
        content = json.loads(VOCABULARY.read_text(encoding="utf-8"))
        return cls(
            {name: (mean, deviation) for name, (mean, deviation) in content["numerical"].items()},
            content["categorical"],
        )

    @property
    def features(self) -> int:
        """How many features there are."""
        return len(self.numerical) + sum(len(values) for values in self.categorical.values())


class CensusIncome(Dataset[Sample]):
    """Persons with three labels each, held compactly.

    :ivar numbers: float32, [N, numerical columns], standardised.
    :ivar positions: int16, [N, categorical columns]: which of the features is 1; `features` where none is.
    :ivar labels: task -> float32, [N], 0 or 1.
    :ivar features: how many features a person has.
    """

    def __init__(
        self, numbers: torch.Tensor, positions: torch.Tensor, labels: dict[str, torch.Tensor], features: int
    ) -> None:
        self.numbers = numbers
        self.positions = positions
        self.labels = labels
        self.features = features

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        """A person's features, float32, [features], and labels by task."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several persons at once, which a DataLoader asks for."""
        inputs, labels = self.batch(torch.tensor(indices))
        tasks = zip(*(values.unbind() for values in labels.values()), strict=True)
        return [(one, dict(zip(labels, own, strict=True))) for one, own in zip(inputs.unbind(), tasks, strict=True)]

    def batch(self, indices: torch.Tensor) -> Sample:
        """The features of several persons, float32, [B, features], and their labels, task -> float32, [B].

        :param indices: int64, [B].
        """
        inputs = torch.zeros(len(indices), self.features + 1)
        inputs.scatter_(1, self.positions[indices].long(), 1.0)
        inputs[:, : self.numbers.shape[1]] = self.numbers[indices]
        # The last column took the values that training rows do not have.
        return inputs[:, :-1], {task: labels[indices] for task, labels in self.labels.items()}


def census_income(root: str | None = None, *, part: Part = "train") -> CensusIncome:
    """Read the full set: 199,523 training rows, and the 99,762 test rows halved at random into validation and test.

    :param root: the folder with `census-income/`, which holds UCI's `census-income.data` and `census-income.test`, or
        both as `census_income_1994_1995_train.csv` and `census_income_1994_1995_test.csv`; each may end in `.gz`.
        Default: the environment variable `RECON_DATA`.
    :param part: `train`, `validation` or `test`. The halves are always the same.
    :raises ReconError: naming the file that is missing or damaged, and the line that is wrong.
    """
    _check(part)
    root = root or os.environ.get("RECON_DATA")
    if not root:
        raise ReconError(
            "it is not known where Census-Income lies",
            "pass `kwargs: {root: folder}`, or set the environment variable RECON_DATA",
        )
    folder = Path(root) / "census-income"
    if part == "train":
        return _read(find_file(folder, "train"))
    rows = _read(find_file(folder, "test"))
    half = halves(len(rows))[part]
    labels = {task: values[half] for task, values in rows.labels.items()}
    return CensusIncome(rows.numbers[half], rows.positions[half], labels, rows.features)


def small_census_income(*, part: Part = "train") -> CensusIncome:
    """The part that ships with Recon: the first 10,000 rows of the training part, and 2,500 of the other two each.

    :param part: `train`, `validation` or `test`.
    :raises ReconError: if there is no such part.
    """
    _check(part)
    return _read(SMALL_DATA / f"census-income-{part}.csv.gz")


def find_file(folder: Path, part: Literal["train", "test"]) -> Path:
    """The file of the training or of the test rows.

    :raises ReconError: if there is none.
    """
    for name in _FILES[part]:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise ReconError(
        f"there is no file {quoted(folder / _FILES[part][0])}, compressed or not",
        "download Census-Income (KDD) of the UCI Machine Learning Repository into that folder",
    )


def halves(rows: int) -> dict[str, torch.Tensor]:
    """Which of the test rows are for validation, and which for testing: int64, in their order in the file."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    return {"validation": order[: rows // 2].sort().values, "test": order[rows // 2 :].sort().values}


def _check(part: str) -> None:
    parts = ("train", "validation", "test")
    if part not in parts:
        raise ReconError(f"Census-Income has no part {quoted(part)}", f"there are {listed(parts)}")


class _Numbers(dict[str, float]):
    """Standardised numbers by their text; each text is read once."""

    def __init__(self, column: str, mean: float, deviation: float) -> None:
        super().__init__()
        self._column, self._mean, self._deviation = column, mean, deviation

    def __missing__(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"has {quoted(text)} for {quoted(self._column)}; a number was expected")
        self[text] = standardised = (value - self._mean) / self._deviation
        return standardised


class _Levels(dict[str, bool]):
    """Labels of a task by the value of its column."""

    def __init__(self, column: str, levels: Mapping[str, bool]) -> None:
        super().__init__(levels)
        self._column = column

    def __missing__(self, text: str) -> bool:
        raise ValueError(f"has {quoted(text)} for {quoted(self._column)}, which is none of its values")


def _read(path: Path) -> CensusIncome:
    vocabulary = Vocabulary.read()
    numerical = [_Numbers(column, *scale) for column, scale in vocabulary.numerical.items()]
    levels = [_Levels(column, positive) for column, positive in LEVELS.values()]
    categorical, end = [], len(numerical)
    for values in vocabulary.categorical.values():
        categorical.append({value: end + at for at, value in enumerate(values)})
        end += len(values)
    numbers_of, categories_of, levels_of = (
        itemgetter(*map(COLUMNS.index, names))
        for names in (vocabulary.numerical, vocabulary.categorical, [column for column, _ in LEVELS.values()])
    )
    numbers, positions, labels = array("f"), array("h"), array("f")
    for line, row in read_rows(path):
        try:
            numbers.extend([known[text] for known, text in zip(numerical, numbers_of(row), strict=True)])
            labels.extend([known[text] for known, text in zip(levels, levels_of(row), strict=True)])
        except ValueError as error:
            raise ReconError(f"line {line} of {quoted(path)} {error}") from None
        found = zip(categorical, categories_of(row), strict=True)
        positions.extend([known.get(text, end) for known, text in found])
    if not numbers:
        raise ReconError(f"{quoted(path)} is empty: it has no rows")
    by_task = torch.frombuffer(labels, dtype=torch.float32).view(-1, len(TASKS)).T.contiguous()
    return CensusIncome(
        torch.frombuffer(numbers, dtype=torch.float32).view(-1, len(numerical)),
        torch.frombuffer(positions, dtype=torch.int16).view(-1, len(categorical)),
        dict(zip(TASKS, by_task, strict=True)),
        end,
    )
