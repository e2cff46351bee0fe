"""Census-Income: what rows become, what is refused, and the part that ships."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from recon_cli.datasets import census_income, small_census_income
from recon_cli.datasets.census_file import COLUMNS
from recon_cli.datasets.make_small import vocabulary_of
from recon_cli.errors import ReconError

SAMPLES = Path(__file__).parents[2] / "sample_configs"
DATA = Path(__file__).parents[2] / "recon_cli" / "datasets" / "data"

needs_data = pytest.mark.skipif("RECON_DATA" not in os.environ, reason="RECON_DATA names no folder with the full data")


def rows_that_ship(part: str = "train") -> list[list[str]]:
    text = gzip.decompress((DATA / f"census-income-{part}.csv.gz").read_bytes()).decode()
    return list(csv.reader(io.StringIO(text), skipinitialspace=True))


def write(root: Path, rows: Sequence[Sequence[str]], name: str = "census-income.data") -> str:
    (root / "census-income").mkdir(exist_ok=True)
    (root / "census-income" / name).write_text("".join(", ".join(row) + "\n" for row in rows))
    return str(root)


def replaced(row: Sequence[str], **values: str) -> list[str]:
    changes = {column.replace("_", " "): value for column, value in values.items()}
    return [changes.get(column, value) for column, value in zip(COLUMNS, row, strict=True)]


def encoded(row: Sequence[str], vocabulary: dict[str, dict[str, list]]) -> list[float]:
    """The features of a row, one by one."""
    value = dict(zip(COLUMNS, row, strict=True))
    numbers = [(float(value[name]) - mean) / std for name, (mean, std) in vocabulary["numerical"].items()]
    return numbers + [
        float(value[name] == known) for name, values in vocabulary["categorical"].items() for known in values
    ]


def test_the_first_three_people_have_the_labels_that_their_rows_say():
    rows = rows_that_ship()[:3]
    assert [(row[4], row[7], row[41]) for row in rows] == [
        ("High school graduate", "Widowed", "- 50000."),
        ("Some college but no degree", "Divorced", "- 50000."),
        ("10th grade", "Never married", "- 50000."),
    ]
    labels = small_census_income().labels
    assert [[int(labels[task][at]) for task in ("income", "marital", "education")] for at in range(3)] == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
    ]


@pytest.mark.parametrize(
    ("level", "college"),
    [
        ("Children", 0),
        ("12th grade no diploma", 0),
        ("High school graduate", 0),
        ("Associates degree-occup /vocational", 1),
        ("Bachelors degree(BA AB BS)", 1),
        ("Doctorate degree(PhD EdD)", 1),
    ],
)
def test_who_has_been_to_a_college_counts_for_the_education_task(tmp_path, level, college):
    root = write(tmp_path, [replaced(rows_that_ship()[0], education=level)])
    assert census_income(root).labels["education"].tolist() == [college]


def test_features_are_standardised_numbers_and_then_a_column_for_each_value():
    vocabulary = json.loads((DATA / "census-income-vocabulary.json").read_text())
    data = small_census_income()
    expected = [encoded(row, vocabulary) for row in rows_that_ship()[:200]]
    found, _ = data.batch(torch.arange(200))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected))
    assert found[:, 7:].sum(1).tolist() == [31] * 200, "every other column has a value, `?` too"


def test_the_columns_of_tasks_and_the_weight_are_no_features(tmp_path):
    row = rows_that_ship()[0]
    other = replaced(row, education="Children", marital_status="Divorced", income="50000+.", instance_weight="1.0")
    data = census_income(write(tmp_path, [row, other, replaced(row, age="74")]))
    features, _ = data.batch(torch.arange(3))
    assert torch.equal(features[0], features[1])
    assert not torch.equal(features[0], features[2])


def test_a_value_that_training_rows_do_not_have_is_all_zeros(tmp_path):
    row = rows_that_ship()[0]
    data = census_income(write(tmp_path, [row, replaced(row, race="Martian")]))
    features, _ = data.batch(torch.arange(2))
    difference = features[0] - features[1]
    assert difference.count_nonzero() == 1
    assert difference.max() == 1


def test_items_batches_and_a_loader_give_the_same():
    data = small_census_income(part="test")
    features, labels = data.batch(torch.tensor([7, 3, 3]))
    for at, index in enumerate((7, 3, 3)):
        one, own = data[index]
        assert torch.equal(one, features[at])
        assert own == {task: values[at] for task, values in labels.items()}
    loaded, targets = next(iter(DataLoader(data, batch_size=64)))
    expected, by_task = data.batch(torch.arange(64))
    assert torch.equal(loaded, expected)
    assert all(torch.equal(targets[task], by_task[task]) for task in by_task)
    assert (loaded.dtype, targets["income"].dtype) == (torch.float32, torch.float32)
    assert torch.equal(data[-1][0], data[len(data) - 1][0])


def test_the_test_rows_are_halved_at_random_and_always_alike(tmp_path):
    row = rows_that_ship()[0]
    # Ages tell the rows apart.
    write(tmp_path, [replaced(row, age=str(age)) for age in range(101)], "census-income.test")
    halves = [census_income(str(tmp_path), part=part) for part in ("validation", "test", "validation", "test")]
    ages = [(half.numbers[:, 0] * 22.310839295996235 + 34.494198663813194).round().int().tolist() for half in halves]
    assert ages[0] + ages[1] == ages[2] + ages[3]
    assert sorted(ages[0] + ages[1]) == list(range(101))
    assert (len(ages[0]), len(ages[1])) == (50, 51)
    assert max(ages[0]) > 51, "it is not the first half"


@pytest.mark.parametrize("name", ["census-income.data", "census_income_1994_1995_train.csv"])
def test_files_are_found_by_either_name_compressed_or_plain(tmp_path, name):
    root = write(tmp_path, rows_that_ship()[:5], name)
    plain = census_income(root)
    path = tmp_path / "census-income" / name
    (tmp_path / "census-income" / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    packed = census_income(root)
    assert torch.equal(plain.positions, packed.positions)
    assert torch.equal(plain.numbers, packed.numbers)
    assert torch.equal(plain.positions, small_census_income().positions[:5])


def test_where_the_files_are_has_to_be_known(tmp_path, monkeypatch):
    monkeypatch.delenv("RECON_DATA", raising=False)
    with pytest.raises(ReconError, match="not known where Census-Income lies"):
        census_income()
    with pytest.raises(ReconError, match=r"there is no file .*census-income/census-income\.test"):
        census_income(str(tmp_path), part="test")
    with pytest.raises(ReconError, match="has no part `t10k`") as caught:
        small_census_income(part="t10k")
    assert caught.value.hint == "there are `train`, `validation`, `test`"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"age": "old"}, "line 2 of .* has `old` for `age`; a number was expected"),
        ({"weeks worked in a year": "nan"}, "line 2 of .* has `nan` for `weeks worked in a year`"),
        ({"income": "much"}, "line 2 of .* has `much` for `income`, which is none of its values"),
        ({"education": "?"}, "line 2 of .* has `\\?` for `education`"),
        ({"sex": "Male, Male"}, "line 2 of .* has 43 values; 42 were expected"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path, changes, words):
    good = rows_that_ship()[0]
    bad = [changes.get(column, value) for column, value in zip(COLUMNS, good, strict=True)]
    with pytest.raises(ReconError, match=words) as caught:
        census_income(write(tmp_path, [good, bad]))
    assert str(tmp_path / "census-income" / "census-income.data") in caught.value.message


def test_files_that_are_damaged_are_named(tmp_path):
    path = tmp_path / "census-income" / "census-income.data.gz"
    path.parent.mkdir()
    good = (DATA / "census-income-train.csv.gz").read_bytes()
    for data, words in [
        (good[:1000], "is truncated"),
        (b"age, income\n", "is damaged"),
        (good[:-8] + bytes(8), "is damaged"),
        (gzip.compress(b"\xff\xfe"), "is damaged"),
        (gzip.compress(b""), "is empty"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ReconError, match=words) as caught:
            census_income(str(tmp_path))
        assert str(path) in caught.value.message


def test_the_data_that_ships_is_complete():
    for part, size in (("train", 10_000), ("validation", 2500), ("test", 2500)):
        data = small_census_income(part=part)
        assert len(data) == size
        assert data.features == 486
        assert all(values.unique().tolist() == [0, 1] for values in data.labels.values())


def test_its_sample_config_profiles_without_the_full_set(recon, monkeypatch):
    monkeypatch.delenv("RECON_DATA", raising=False)
    shutil.copy(SAMPLES / "census_income_small.yaml", "recon.yaml")
    result = recon("profile", "recon.yaml", "--iterations", 3, "-o", "scores.json", "--json").succeeds()
    assert result.document["tasks"] == ["income", "marital", "education"]
    assert [layer["name"] for layer in result.document["layers"]] == ["fc1", "fc2"]


@needs_data
@pytest.mark.slow
def test_the_full_set_is_read_and_the_data_that_ships_is_its_beginning():
    for part, size, shipped in (("train", 199_523, 10_000), ("validation", 49_881, 2500), ("test", 49_881, 2500)):
        full, small = census_income(part=part), small_census_income(part=part)
        assert len(full) == size
        assert torch.equal(full.positions[:shipped], small.positions)
        assert torch.equal(full.numbers[:shipped], small.numbers)
        assert all(torch.equal(full.labels[task][:shipped], small.labels[task]) for task in small.labels)
        if part == "train":
            # Numbers are standardised by these rows, and every value of the vocabulary is one of theirs.
            torch.testing.assert_close(full.numbers.double().mean(0), torch.zeros(7).double(), atol=1e-6, rtol=0)
            torch.testing.assert_close(full.numbers.double().std(0, correction=0), torch.ones(7).double())
            assert full.positions.unique().tolist() == list(range(7, 486))
            # As the set's own description counts them: 12,382 persons earn more than 50,000.
            assert int(full.labels["income"].sum()) == 12_382


def test_a_vocabulary_is_made_of_what_rows_hold():
    rows = [replaced(rows_that_ship()[0], age=age, sex=sex) for age, sex in (("1", "Male"), ("3", "?"), ("2", "Male"))]
    vocabulary = vocabulary_of(rows)
    assert vocabulary["numerical"]["age"] == pytest.approx([2, (2 / 3) ** 0.5])
    assert vocabulary["categorical"]["sex"] == ["?", "Male"]
    assert not {"income", "education", "marital status", "instance weight"} & set(vocabulary["categorical"])
