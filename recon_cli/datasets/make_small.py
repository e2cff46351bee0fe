"""Makes the data that ships with Recon from the full sets: `python -m recon_cli.datasets.make_small ROOT`."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from recon_cli.datasets.census_file import COLUMNS, read_rows
from recon_cli.datasets.census_income import LEVELS, VOCABULARY, find_file, halves
from recon_cli.datasets.idx import write_idx
from recon_cli.datasets.multi_fashion_mnist import SMALL_DATA, TASKS, multi_fashion_mnist

IMAGES = {"train": 4000, "t10k": 1000}
ROWS = {"train": 10_000, "validation": 2500, "test": 2500}
NUMERICAL = (
    "age",
    "wage per hour",
    "capital gains",
    "capital losses",
    "dividends from stocks",
    "persons worked for employer",
    "weeks worked in a year",
)


def make_multi_fashion_mnist(root: str) -> None:
    """Write the first images of seed 0, and their labels."""
    for part, size in IMAGES.items():
        data = multi_fashion_mnist(root, train=part == "train")
        write_idx(SMALL_DATA / f"{part}-images-idx3-ubyte.gz", data.images[:size])
        for task in TASKS:
            write_idx(SMALL_DATA / f"{part}-{task}-labels-idx1-ubyte.gz", data.labels[task][:size].to(torch.uint8))


def make_census_income(root: str) -> None:
    """Write the vocabulary of the training part, and the first rows of every part."""
    folder = Path(root) / "census-income"
    rows = [row for _, row in read_rows(find_file(folder, "train"))]
    VOCABULARY.write_text(json.dumps(vocabulary_of(rows), indent=1) + "\n", encoding="utf-8")
    _write_rows("train", rows)
    rows = [row for _, row in read_rows(find_file(folder, "test"))]
    for part, half in halves(len(rows)).items():
        _write_rows(part, [rows[at] for at in half[: ROWS[part]].tolist()])


def vocabulary_of(rows: Sequence[Sequence[str]]) -> dict[str, dict[str, list[float] | list[str]]]:
    """Mean and standard deviation of every numerical column, and the values of every other that is a feature."""
    no_features = {"instance weight"} | {column for column, _ in LEVELS.values()}
    numerical: dict[str, list[float] | list[str]] = {}
    categorical: dict[str, list[float] | list[str]] = {}
    for column, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        if column in NUMERICAL:
            numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)
            numerical[column] = [float(numbers.mean()), float(numbers.std(correction=0))]
        elif column not in no_features:
            categorical[column] = sorted(set(values))
    return {"numerical": numerical, "categorical": categorical}


def _write_rows(part: str, rows: Sequence[Sequence[str]]) -> None:
    text = "".join(", ".join(row) + "\n" for row in rows[: ROWS[part]])
    (SMALL_DATA / f"census-income-{part}.csv.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def main(root: str) -> None:
    """Write all of it."""
    SMALL_DATA.mkdir(exist_ok=True)
    make_multi_fashion_mnist(root)
    make_census_income(root)


if __name__ == "__main__":
    main(sys.argv[1])
