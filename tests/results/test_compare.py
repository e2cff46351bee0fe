"""Ways of training against each other: as a function, for people, and as a command."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from recon_cli.artifacts.result_comparison import ResultComparison
from recon_cli.artifacts.training import Results
from recon_cli.errors import ReconError, printable
from recon_cli.reporting.result_comparison import result_comparison_remarks, result_comparison_view
from recon_cli.results.compare import compare_results
from recon_cli.results.runs import Run, run_names
from tests.results.making import results

TWO = {"seg/loss": 0.5, "seg/miou": 0.8, "depth/loss": 0.3, "depth/error": 0.2}
LOWER = ("depth/error",)


def two(miou, error, **parts) -> Results:
    """Results of two tasks with a metric each; their losses are always the same."""
    return results({**TWO, "seg/miou": miou, "depth/error": error}, lower=LOWER, **parts)


def compare(*each: Results, **options) -> ResultComparison:
    return compare_results([Run(f"run{number}", results) for number, results in enumerate(each)], **options)


def shown(comparison: ResultComparison, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    for item in result_comparison_view(comparison):
        console.print(printable(item) if isinstance(item, str) else item)
    return console.file.getvalue()


# What is compared


def test_every_run_is_compared_with_the_first_by_its_metrics():
    found = compare(two(0.8, 0.2), two(0.6, 0.1))
    assert [run.improvement.total.mean for run in found.runs] == pytest.approx([0, 100 * (-0.25 + 0.5) / 2])
    assert found.runs[1].improvement.tasks["seg"].mean == pytest.approx(-25)
    assert found.runs[1].improvement.tasks["depth"].mean == pytest.approx(50)
    assert [criterion.counted for criterion in found.criteria] == [False, True, False, True]
    assert found.single_task is None
    assert all(run.delta_m is None for run in found.runs)


def test_delta_m_is_over_the_first_if_that_is_single_task():
    found = compare(two(0.8, 0.2, single_task=True), two(0.6, 0.1))
    assert found.single_task == 0
    assert [run.delta_m for run in found.runs] == [run.improvement for run in found.runs]


def test_delta_m_is_over_the_single_task_networks_that_are_named():
    runs = [Run("a", two(0.4, 0.4)), Run("b", two(0.6, 0.1)), Run("s", two(0.8, 0.2, single_task=True))]
    found = compare_results(runs, single_task=runs[2])
    assert found.single_task == 2
    assert [run.delta_m.total.mean for run in found.runs] == pytest.approx([-75, 12.5, 0])
    assert [run.improvement.total.mean for run in found.runs] == pytest.approx([0, 62.5, 75])


def test_the_best_evaluations_are_compared_if_asked_for():
    better = {"seg/loss": 0.1, "seg/miou": 0.9, "depth/loss": 0.1, "depth/error": 0.2}
    one, other = two(0.6, 0.2), two(0.6, 0.2, best=better)
    assert compare(one, other).runs[1].improvement.total.mean == 0
    assert compare(one, other, which="best").runs[1].improvement.total.mean == pytest.approx(25)
    assert compare(one, other, which="best").runs[1].figures["seg"]["miou"].mean == 0.9


def test_costs_are_relative_to_the_first_run():
    first, other = two(0.8, 0.2), two(0.8, 0.2, operations=1500, seconds=3.0, bytes=3 << 20)
    run = compare(first, other).runs[1]
    assert (run.operations_ratio, run.seconds_ratio, run.bytes) == (1.5, 1.5, 3 << 20)
    unknown = compare(two(0.8, 0.2, operations=None, seconds=0.0), other)
    assert [(run.operations_ratio, run.seconds_ratio) for run in unknown.runs] == [(None, None)] * 2


def test_tasks_and_criteria_in_another_order_are_the_same():
    turned = {name: TWO[name] for name in reversed(TWO)}
    assert compare(results(TWO, lower=LOWER), results(turned, lower=LOWER)).runs[1].improvement.total.mean == 0


def test_a_figure_that_a_run_lacks_leaves_the_others():
    found = compare(two(0.8, 0.2), two(0.6, None), two(0.6, 0.1))
    assert [run.improvement.total is None for run in found.runs] == [False, True, False]
    assert found.runs[1].improvement.tasks["seg"].mean == pytest.approx(-25)
    assert list(result_comparison_remarks(found)) == [
        "the improvement of `run1` is not known: the run has no figure for `depth/error`"
    ]


def test_a_first_run_with_nothing_to_be_relative_to_is_told_of_once():
    found = compare(two(0.0, 0.2), two(0.6, 0.1), two(0.6, 0.1))
    (remark,) = result_comparison_remarks(found)
    assert "no improvement over `run0` is known: `seg/miou` is 0 in the baseline" in remark


def test_best_evaluations_that_were_chosen_by_different_figures_are_told_of():
    one, other = two(0.8, 0.2), two(0.8, 0.2, best_by="miou")
    assert list(result_comparison_remarks(compare(one, other))) == []
    (remark,) = result_comparison_remarks(compare(one, other, which="best"))
    assert "`run0` by `loss`, `run1` by `miou`" in remark


# What is refused


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (results({"seg/loss": 1.0, "edges/loss": 1.0}), "different tasks: `run1` lacks `depth`; `run0` lacks `edges`"),
        (
            results({**TWO, "seg/f1": 1.0}, lower=LOWER),
            "the runs have different criteria: `run0` lacks `seg/f1`",
        ),
        (results({"seg/miou": 1.0, "depth/error": 1.0}, lower=LOWER), "`run1` lacks `depth/loss`, `seg/loss`"),
        (results(TWO), "of `depth/error`, `run0` calls lower values better, `run1` higher ones"),
        (results(TWO, lower=LOWER, last={}, best={}), "`run1` was not evaluated"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(other, words):
    with pytest.raises(ReconError) as caught:
        compare(two(0.8, 0.2), other)
    assert words in caught.value.message


def test_single_task_networks_have_to_be_such():
    runs = [Run("a", two(0.8, 0.2)), Run("b", two(0.8, 0.2))]
    with pytest.raises(ReconError, match="`b` is one network for all tasks"):
        compare_results(runs, single_task=runs[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["criteria"].append(content["criteria"][0]), "stands in `criteria` twice"),
        (lambda content: content["last"]["seg"].pop("miou"), "not those that `criteria` names"),
        (lambda content: content["best"]["seg"].update(x=None), "not those that `criteria` names"),
        (lambda content: content.update(seeds=[0, 1]), "not one value per seed"),
    ],
)
def test_results_that_contradict_themselves_are_refused(recon, change, words):
    content = two(0.8, 0.2).to_json()
    change(content)
    Path("r.json").write_text(json.dumps(content))
    two(0.8, 0.2).write("good.json")
    recon("compare-results", "good.json", "r.json").refuses("`r.json`", words)


# For people


def test_the_best_of_each_column_has_a_mark():
    out = shown(compare(two([0.8, 0.82], [0.2, 0.22]), two([0.6, 0.62], [0.1, 0.12]), two([0.7, 0.9], [0.3, 0.3])))
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("run")}
    assert "0.8100 ± 0.0141*" in rows["run0"]  # 0.81 is above the mean 0.8 of run2
    assert "0.1100 ± 0.0141*" in rows["run1"]
    assert rows["run1"].count("*") == 2
    assert "*" not in rows["run2"]
    assert "2 seeds each" in out
    assert "over 1st: mean relative improvement over run0; above 0 is better" in out


def test_two_tasks_with_a_metric_each_are_one_table_of_100_columns():
    runs = [Run(name, two([value, value + 0.01], [0.2, 0.21], bytes=int(43.43 * 2**20)))
            for name, value in (("joint", 0.4), ("recon-top-25", 0.9), ("pcgrad", 0.5))]  # fmt: skip
    single = Run("single", two([0.1, 0.2], [0.3, 0.32], single_task=True))
    out = shown(compare_results([*runs, single], single_task=single))
    assert max(map(len, out.splitlines())) <= 100
    assert sum(line.startswith("recon-top-25 ") for line in out.splitlines()) == 1
    (row,) = [line for line in out.splitlines() if line.startswith("recon-top-25 ")]
    assert "+268.60 ± " in row  # over single: ((0.905 - 0.15) / 0.15 + (0.31 - 0.205) / 0.31) / 2
    assert "+61.73 ± " in row  # over joint: ((0.905 - 0.405) / 0.405 + 0) / 2
    assert "43.43" in row


@pytest.mark.parametrize(("width", "tables"), [(80, 5), (100, 3), (300, 1)])
def test_twelve_runs_with_nine_criteria_are_not_cut(width, tables):
    names = ["seg/miou", "seg/pixels", "depth/abs_error", "depth/rel_error"]
    names += [f"normal/{name}" for name in ("mean", "median", "within_11.25", "within_22.5", "within_30")]
    runs = [Run(f"method-{n}", results({name: [10.1 + n, 20.2] for name in names})) for n in range(12)]
    out = shown(compare_results(runs), width)
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width
    rows = [line for line in out.splitlines() if line.startswith("method-11")]
    assert sum(line.count("±") for line in rows) == 10
    assert len(rows) == tables


def test_seeds_have_a_column_if_they_differ_and_names_do_no_harm():
    runs = [Run("\x1b[31m[bold]", two([0.5, 0.6], [0.1, 0.2])), Run("層", two(0.5, 0.1))]
    out = shown(compare_results(runs))
    assert "\x1b" not in out
    assert "[bold]" in out
    assert "seeds" in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith(("層", "\\x1b"))] == ["2", "1"]


def test_an_improvement_that_is_not_known_is_a_dash():
    out = shown(compare(two(0.8, 0.2), two(0.6, None)))
    (row,) = [line for line in out.splitlines() if line.startswith("run1")]
    assert row.split()[1:4] == ["0.6000", "-", "-"]


# The command


@pytest.fixture
def runs(recon, tmp_path) -> list[str]:
    """A joint run as a file, a better one and single-task networks in folders."""
    two(0.4, 0.4).write("joint.json")
    for name, run in {"better": two(0.6, 0.1), "single": two(0.8, 0.2, single_task=True)}.items():
        (tmp_path / name).mkdir()
        run.write(tmp_path / name / "results.json")
    return ["joint.json", "better"]


def test_the_command_compares_files_folders_and_standard_input(recon, runs):
    found = recon("compare-results", *runs, "--json").succeeds().document
    assert found["schema"] == "recon.result-comparison/1"
    assert [run["name"] for run in found["runs"]] == ["joint", "better"]
    assert found["runs"][1]["improvement"]["total"]["mean"] == pytest.approx(62.5)
    assert found["single_task"] is None
    piped = recon("compare-results", "-", "better", "--json", stdin=Path("joint.json").read_text()).succeeds()
    assert piped.document == {**found, "runs": [{**found["runs"][0], "name": "-"}, found["runs"][1]]}


@pytest.mark.parametrize("arguments", [["single"], ["single", "--single-task", "single/results.json"], []])
def test_single_task_networks_come_last_or_where_they_stand(recon, runs, arguments):
    options = arguments or ["--single-task", "single"]
    found = recon("compare-results", *runs, *options, "--json").succeeds().document
    assert [run["name"] for run in found["runs"]] == ["joint", "better", "single"]
    if arguments == ["single"]:
        assert found["single_task"] is None
        assert "--single-task gives delta m" in recon("compare-results", *runs, *options).err
        return
    assert found["single_task"] == 2
    assert [run["delta_m"]["total"]["mean"] for run in found["runs"]] == pytest.approx([-75, 12.5, 0])


def test_one_run_can_be_compared_with_single_task_networks(recon, runs):
    found = recon("compare-results", "better", "--single-task", "single", "--json").succeeds().document
    assert found["runs"][0]["delta_m"]["total"]["mean"] == pytest.approx(12.5)


def test_the_comparison_is_written_as_it_is_printed_and_read_as_it_was_written(recon, runs):
    printed = recon("compare-results", *runs, "--json").succeeds().out
    recon("compare-results", *runs, "-o", "c.json", "-q").succeeds()
    assert Path("c.json").read_text() == printed
    assert recon("compare-results", *runs, "-o", "-").succeeds().out == printed
    recon("compare-results", *runs, "-o", "c.json").refuses("`c.json` exists already")
    recon("compare-results", *runs, "-o", "c.json", "--force", "-q").succeeds()
    assert ResultComparison.read("c.json").to_bytes() == Path("c.json").read_bytes()
    before = Path("better/results.json").read_bytes()
    recon("compare-results", *runs, "-o", "better/results.json", "--force").refuses("is the input")
    assert Path("better/results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(single_task=2), "`single_task` is no place"),
        (lambda content: content.update(single_task=0), "has a delta m where the others have none"),
        (lambda content: content["runs"][1]["figures"].pop("seg"), "not those that `criteria` names"),
    ],
)
def test_a_comparison_that_contradicts_itself_is_refused(recon, runs, change, words):
    content = recon("compare-results", *runs, "--json").succeeds().document
    change(content)
    Path("changed.json").write_text(json.dumps(content))
    recon("inspect", "changed.json").refuses("`changed.json`", words)


def test_runs_are_called_by_their_folders_unless_that_is_ambiguous(recon, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    paths = [Path("results.json"), Path("a/results.json"), Path("b/a/results.json"), Path("joint.json"), Path("-")]
    assert run_names(paths) == ["here", "a/results.json", "b/a/results.json", "joint", "-"]


def test_what_was_really_trained_is_compared(recon, config):
    tasks = [
        {"name": task, "loss": "cross_entropy", "label": task, "metrics": ["accuracy"]} for task in ("left", "right")
    ]
    path = config(tasks=tasks, validation={"target": "tests.networks:two_task_data"})
    recon("train", path, "-o", "single", "--single-task", "--seeds", "0,1", "--epochs", 1, "-q").succeeds()
    recon("train", path, "-o", "joint", "--seeds", "0,1", "--epochs", 1, "-q").succeeds()
    found = recon("compare-results", "single", "joint", "--json").succeeds().document
    figures = [json.loads(Path(name, "results.json").read_text())["last"] for name in ("single", "joint")]
    s, m = ([of[task]["accuracy"]["mean"] for task in ("left", "right")] for of in figures)
    expected = 50 * ((m[0] - s[0]) / s[0] + (m[1] - s[1]) / s[1])
    assert found["runs"][1]["delta_m"]["total"]["mean"] == pytest.approx(expected)
    assert found["runs"][1]["operations_ratio"] < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["joint.json"], ["needs two or more"]),
        (["single", "--single-task", "single"], ["needs two or more"]),
        (["-", "-"], ["`-` is given twice"]),
        (["-", "better", "--single-task", "-"], ["`-` is given twice"]),
        (["joint.json", "better", "./joint.json"], ["`joint.json`", "are one run"]),
        (["better", "joint.json", "better/results.json"], ["`better/results.json`", "are one run"]),
        (["joint.json", "none.json"], ["there is no file `none.json`"]),
        (["joint.json", "."], ["there is no file `results.json`"]),
        (["joint.json", "better", "--single-task", "none"], ["there is no file `none`"]),
        (["joint.json", "better", "--single-task", "better"], ["`better` is one network for all tasks"]),
        (["joint.json", "better", "--json", "--quiet"], ["contradict each other"]),
    ],
)
def test_wrong_use_is_refused(recon, runs, arguments, words):
    recon("compare-results", *arguments).refuses(*words)


def test_files_that_hold_no_results_are_refused(recon, runs, ranking):
    recon("compare-results", "joint.json", ranking).refuses(
        "`recon.results/1` was expected", "`recon train` writes one"
    )
