"""The benchmark on Census-Income: what is run, what is run again, and what the table says."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks import census_income as benchmark
from benchmarks.census_income import METHODS, PAGE, Run, areas, page_of, read_runs, table_of, train
from recon_cli.datasets import small_census_income
from recon_cli.zoo import census_mlp

AREAS = {"income": 0.9, "marital": 0.8, "education": 0.7}
RUN = Run("joint", 0, "small", 2, 5.0, AREAS, AREAS)


def start(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> None:
    common = ["--data", "small", "--epochs", "1", "--methods", "joint"]
    monkeypatch.setattr(sys, "argv", ["census_income", str(path), *common, *arguments])
    benchmark.main()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_step(method):
    data = small_census_income(part="validation")
    torch.manual_seed(0)
    begun = census_mlp().state_dict()
    ended = train(data, METHODS[method], epochs=1, seed=0).state_dict()
    assert all(not torch.equal(ended[name], begun[name]) for name in begun)


def test_joint_training_makes_the_steps_of_a_plain_loop():
    data = small_census_income()
    torch.manual_seed(3)
    model = census_mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for rows in torch.randperm(len(data), generator=torch.Generator().manual_seed(3)).split(1024):
        inputs, labels = data.batch(rows)
        losses = [F.binary_cross_entropy_with_logits(output, labels[task]) for task, output in model(inputs).items()]
        optimizer.zero_grad()
        (sum(losses) / 3).backward()
        optimizer.step()
    found = train(data, METHODS["joint"], 1, 3).state_dict()
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(found[name], expected)


def test_the_areas_of_a_network_that_knows_the_labels_are_one():
    data = small_census_income(part="test")

    class Knowing(torch.nn.Module):
        at = 0

        def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            assert not self.training
            self.at += len(inputs)
            known = {task: labels[self.at - len(inputs) : self.at] for task, labels in data.labels.items()}
            return {**known, "income": -known["income"]}

    assert areas(Knowing(), data) == {"income": 0.0, "marital": 1.0, "education": 1.0}


def test_runs_that_are_there_are_not_made_again(tmp_path, monkeypatch, capsys):
    path = tmp_path / "figures.jsonl"
    start(monkeypatch, path, "--seeds", "0")
    first = path.read_text()
    assert [one.seed for one in read_runs(path)] == [0]
    start(monkeypatch, path, "--seeds", "1", "0")
    assert path.read_text().startswith(first)
    assert [one.seed for one in read_runs(path)] == [0, 1]
    assert "| joint |" in capsys.readouterr().out
    start(monkeypatch, path, "--seeds", "0", "--epochs", "2")
    assert [(one.seed, one.epochs) for one in read_runs(path)] == [(0, 1), (1, 1), (0, 2)]
    again = read_runs(path)[0]
    path.write_text("")
    start(monkeypatch, path, "--seeds", "0")
    assert replace(read_runs(path)[0], seconds=0) == replace(again, seconds=0), "a seed decides all of a run"


def test_the_table_has_means_over_the_seeds_of_the_test_part():
    other = replace(RUN, seed=1, test={"income": 1.0, "marital": 0.8, "education": 0.8})
    row = table_of([RUN, replace(RUN, method="pcgrad"), other]).splitlines()[2:]
    # The averages are 80 and 86.67.
    assert row[0] == "| joint | 95.00 | 80.00 | 75.00 | 83.33 ± 4.71 | 2 |"
    assert row[1] == "| pcgrad | 90.00 | 80.00 | 70.00 | 80.00 | 1 |"


def test_the_page_takes_a_table_and_keeps_its_words():
    page = PAGE.read_text()
    once = page_of(page, [RUN], 2)
    assert "2 epochs; 1 runs" in once
    assert page_of(once, [RUN], 2) == once
    assert once.partition("<!-- table -->")[0] == page.partition("<!-- table -->")[0]
    assert once.partition("<!-- end -->")[2] == page.partition("<!-- end -->")[2]


def test_a_run_survives_its_file(tmp_path):
    path = tmp_path / "figures.jsonl"
    assert read_runs(path) == []
    path.write_text(json.dumps(asdict(RUN)) + "\n")
    assert read_runs(path) == [RUN]
