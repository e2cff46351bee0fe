"""What people are told of a run."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from recon_cli.artifacts.method import JOINT
from recon_cli.artifacts.run import Answer, RunReport, Split
from recon_cli.artifacts.training import Statistic
from recon_cli.reporting.run import report_remarks, report_view
from recon_cli.results.compare import compare_results
from recon_cli.results.runs import Run
from tests.chain.chains import run_chain, write_project
from tests.cli.test_terminal import on_a_terminal
from tests.results.making import results, statistic


def reported(improvement: Statistic | None, accuracies: list[float], **parts: object) -> RunReport:
    """A report with this answer, and runs of these figures."""
    runs = [Run(name, results({"left/accuracy": accuracies})) for name in ("joint", "joint-recon")]
    answer = {
        "method": JOINT, "shared": "joint", "branched": "joint-recon", "improvement": improvement,
        "bytes_ratio": 1.0143, "operations_ratio": 1.5, "seconds_ratio": 1.25,
    }  # fmt: skip
    return RunReport(
        tasks=("left", "right"),
        severity=-0.1,
        split=Split(layers=("conv", "norm"), parameters_before=1000, parameters_after=1014, cost=1.5),
        answers=(Answer(**{**answer, **parts}),),
        results=compare_results(runs),
        conflicts=None,
    )


def last_lines(report: RunReport) -> list[str]:
    """The last lines of a report: what was split, the answer, where it lies."""
    console = Console(file=StringIO(), width=1000)
    for item in report_view(report, Path("out")):
        console.print(item)
    return console.file.getvalue().splitlines()[-3:]


COST = "at 1.014 times the size, 1.50 times the operations, 1.25 times the training time"


@pytest.mark.parametrize(
    ("improvement", "seeds", "sentence"),
    [
        (statistic([1.0, 3.0]), 2, "joint: splitting helped, +2.00% ± 1.41"),
        (statistic([-3.0, -1.0]), 2, "joint: splitting did not help, -2.00% ± 1.41"),
        (statistic([0.0, 4.0]), 2, "joint: splitting helped, +2.00% ± 2.83 (within the spread of the seeds)"),
        (statistic([-4.0, 0.0]), 2, "joint: splitting did not help, -2.00% ± 2.83 (within the spread of the seeds)"),
        (statistic([0.0, 0.0]), 2, "joint: splitting did not help, +0.00% ± 0.00 (within the spread of the seeds)"),
        (statistic([2.5]), 1, "joint: splitting helped, +2.50% (one seed: no spread is known)"),
        (
            None,
            2,
            "joint: whether splitting helped is not known, as a figure that counts is missing, or not above 0 without "
            "the split",
        ),
    ],
)
def test_the_answer_is_a_sentence(improvement, seeds, sentence):
    split, answer, where = last_lines(reported(improvement, [0.5] * seeds))
    assert (
        split == "split: 2 layers, by the conflicts below cosine -0.1; 1.40% more parameters, 1.50 times the operations"
    )
    assert answer == f"{sentence}, {COST}"
    assert where == "results: out/report.json"


def test_costs_that_are_not_known_are_left_out():
    _, answer, _ = last_lines(reported(statistic([2.5]), [0.5], operations_ratio=None, seconds_ratio=None))
    assert answer.endswith("at 1.014 times the size")


def test_a_terminal_of_100_columns_shows_all_of_it(tmp_path, monkeypatch):
    def several(config):
        config["train"]["iterations"] = 1
        config["run"].update(seeds=[0, 1], methods=["joint", "pcgrad"], controls=["rsl", "rsp", "first-k", "last-k"])

    config = write_project(tmp_path, several)
    _, report = run_chain(config)
    code, shown = on_a_terminal("run", config, "-o", "out", cwd=tmp_path, watched="stdout", columns=100)
    assert code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in shown
    text = " ".join(" ".join(lines).split())
    for run in report.results.runs:
        assert any(line.startswith(f"{run.name} ") for line in lines), run.name
    for words in ("delta m, %", "over 1st, %", "reduction", "joint: splitting ", "pcgrad: splitting ", "results: out"):
        assert words in text


def test_the_steps_are_told_on_the_way(recon, tmp_path):
    config = write_project(tmp_path / "project")
    told = recon("run", config, "-o", "out", "--until", "split").succeeds().err.splitlines()
    steps = ["note: profile", "note: rank", "note: split: network", "note: split recon"]
    assert [line for line in told if line in steps] == steps
    assert recon("run", config, "-o", "out", "--until", "rank").succeeds().err.splitlines() == [
        "note: profile was done before",
        "note: rank was done before",
    ]


def test_why_an_improvement_is_not_known_is_said():
    report = reported(None, [0.0, 0.0])
    (remark,) = report_remarks(report)
    assert "no improvement over `joint` is known" in remark
    assert "left/accuracy" in remark
