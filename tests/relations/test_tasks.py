"""`recon tasks`: against raw gradients, and as a command."""

from __future__ import annotations

import io
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from recon_cli.artifacts.tasks import TaskRelations
from recon_cli.errors import ReconError
from recon_cli.relations.relate import relate_tasks
from recon_cli.reporting.tasks import tasks_view
from tests.relations.making import cosines, gradients, of_five_tasks, scores_of_gradients


def shown_at(columns: int, found: TaskRelations) -> str:
    console = Console(file=io.StringIO(), width=columns, markup=False, highlight=False)
    for item in tasks_view(found):
        console.print(item)
    return console.file.getvalue()


@pytest.mark.parametrize("layer", [None, "layer1"])
@pytest.mark.parametrize("severity", [0.0, -0.1])
def test_the_matrix_is_that_of_the_raw_gradients(layer, severity):
    layers = gradients(200), gradients(200, seed=1)
    found = relate_tasks(scores_of_gradients(*layers), severity, layer)
    raw = cosines(layers[0 if layer is None else 1])
    for pair, (i, j) in enumerate(combinations(range(5), 2)):
        assert found.rates[i][j] == found.rates[j][i] == pytest.approx((raw[:, pair] < severity).mean())
        assert found.cosines[i][j] == pytest.approx(raw[:, pair].mean(), abs=1e-6)
        assert found.measured[i][j] == 200
    assert [found.rates[i][i] for i in range(5)] == [None] * 5


def test_tasks_that_pull_the_same_way_are_a_group():
    found = relate_tasks(of_five_tasks(400), -0.1)
    groups = [set(group.tasks) for group in found.grouping.groups]
    assert any({"a", "c"} <= group for group in groups)
    assert any({"b", "e"} <= group for group in groups)
    assert not any({"a", "b"} <= group for group in groups)
    assert found.grouping.beyond_chance
    for group, members in zip(found.grouping.groups, groups, strict=True):
        inside = [found.rates[i][j] for i, j in combinations(range(5), 2) if {"abcde"[i], "abcde"[j]} <= members]
        assert group.highest_rate == max(inside, default=None)
        assert all(rate <= found.grouping.mean_rate for rate in inside)


def test_rates_within_and_across_groups_are_the_means():
    found = relate_tasks(of_five_tasks(400), -0.1)
    group_of = {task: place for place, group in enumerate(found.grouping.groups) for task in group.tasks}
    rates = {True: [], False: []}
    for i, j in combinations(range(5), 2):
        rates[group_of[found.tasks[i]] == group_of[found.tasks[j]]].append(found.rates[i][j])
    assert found.grouping.within_rate == pytest.approx(np.mean(rates[True]))
    assert found.grouping.across_rate == pytest.approx(np.mean(rates[False]))


def test_the_last_windows_that_hold_fifty_steps_are_told():
    assert relate_tasks(of_five_tasks(30), -0.1).last_iterations == 30
    assert relate_tasks(of_five_tasks(120), -0.1).last_iterations == 50
    # In windows of four.
    assert relate_tasks(of_five_tasks(300), -0.1).last_iterations == 52


def test_of_two_tasks_any_severity_of_the_histogram_is_known_and_nothing_is_grouped():
    layer = gradients(50, pulls=(1, -1))
    scores = scores_of_gradients(layer).model_copy(update={"trunk_between": None})
    found = relate_tasks(scores, -0.25)
    assert found.rates[0][1] == pytest.approx((cosines(layer) < -0.25).mean())
    assert found.grouping is None
    with pytest.raises(ReconError, match="at the severity -0.123"):
        relate_tasks(scores, -0.123)


# The command


@pytest.fixture
def five(tmp_path: Path) -> Path:
    path = tmp_path / "five.json"
    of_five_tasks(200).write(path)
    return path


def test_json_is_the_document_and_the_table_says_the_same(recon, five):
    found = recon("tasks", five, "--json").succeeds()
    document = TaskRelations.from_content(found.document, "it")
    assert document.severity == -0.1
    out = recon("tasks", five).succeeds().out
    row = next(line.split() for line in out.splitlines() if line.startswith("2  b "))
    expected = [f"{100 * rate:.1f}" if rate is not None else "-" for rate in document.rates[1]]
    assert row == ["2", "b", *expected]
    for group in document.grouping.groups:
        assert ", ".join(group.tasks) in out
    assert f"the last {document.last_iterations} measured steps" in out


def test_a_layer_goes_by_its_aliases_too(recon, five):
    scores = json.loads(five.read_bytes())
    scores["layers"][1]["aliases"] = ["tied"]
    Path("aliased.json").write_text(json.dumps(scores))
    by_alias = recon("tasks", "aliased.json", "--layer", "tied", "--json").succeeds().document
    assert by_alias["layer"] == "layer1"
    assert by_alias == recon("tasks", "aliased.json", "--layer", "layer1", "--json").document


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "laier1"], ["share no layer `laier1`", "did you mean `layer1`?"]),
        (["--layer", "x"], ["share no layer `x`", "they share `layer0`, `layer1`"]),
        (["-S", "-0.05"], ["at the severity -0.05", "counted at `0`, `-0.1`"]),
        (["-S", "0.1"], ["0.1 is not in (-1, 0]"]),
        (["--json", "-q"], ["contradict each other"]),
    ],
)
def test_wrong_use_is_refused(recon, five, arguments, words):
    recon("tasks", five, *arguments).refuses(*words)


def test_scores_of_earlier_versions_are_refused_but_for_two_tasks(recon, five):
    scores = json.loads(five.read_bytes())
    del scores["trunk_between"]
    Path("old.json").write_text(json.dumps(scores))
    recon("tasks", "old.json").refuses("do not tell which tasks conflict", "profile anew")
    two = scores_of_gradients(gradients(20, pulls=(1, 0)))
    two.model_copy(update={"trunk_between": None, "trunk_series": None}).write("two.json")
    result = recon("tasks", "two.json").succeeds()
    assert "two tasks only, so there is nothing to group" in result.err
    assert "hold nothing over time" in result.err


def test_what_is_odd_is_told(recon):
    alike = scores_of_gradients(gradients(60, pulls=(0, 0, 0)))
    alike.model_copy(update={"complete": False}).write("alike.json")
    err = recon("tasks", "alike.json").succeeds().err
    assert "by no more than chance explains" in err
    assert "ended early, after 60 measured iterations" in err
    assert recon("tasks", "alike.json", "-q").succeeds().err == ""


def test_a_notebook_shows_the_whole_matrix(five):
    found = relate_tasks(of_five_tasks(200), -0.1)
    html = found._repr_html_()
    assert "<code>recon.tasks/1</code>" in html
    for rate in found.rates[0][1:]:
        assert f">{100 * rate:.1f}</td>" in html


@pytest.mark.parametrize("tasks", [2, 5, 9])
def test_up_to_nine_tasks_fit_a_terminal_of_80_columns(tasks):
    found = relate_tasks(scores_of_gradients(gradients(60, pulls=(1,) * tasks)), -0.1)
    found = found.model_copy(update={"tasks": tuple(f"surface_normals_{place}" for place in range(tasks))})
    shown = shown_at(80, found)
    assert "\u2026" not in shown
    rates = [f"{100 * rate:.1f}" for rate in found.rates[-1][:-1]]
    assert any(line.split()[-tasks:] == [*rates, "-"] for line in shown.splitlines())


def test_of_forty_tasks_the_worst_pairs_are_listed(recon):
    found = relate_tasks(scores_of_gradients(gradients(30, pulls=(1, -1, 0, 0.5) * 10)), -0.1)
    shown = shown_at(80, found)
    assert "the 20 of 780 pairs that conflict most" in shown
    rates = sorted((rate for i, row in enumerate(found.rates) for rate in row[i + 1 :]), reverse=True)
    listed = [line.split() for line in shown.splitlines() if len(line.split()) == 4 and line.split()[1] in found.tasks]
    assert [float(row[2]) for row in listed] == [round(100 * rate, 1) for rate in rates[:20]]
    for one, other, rate, _ in listed:
        assert round(100 * found.rates[found.tasks.index(one)][found.tasks.index(other)], 1) == float(rate)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found["rates"].pop(), "one row and one column per task"),
        (lambda found: found["rates"][0].__setitem__(1, 0.123), "not symmetric"),
        (lambda found: found["windows"].append(3), "one value per window"),
        (lambda found: found["courses"][0]["smoothed"].pop(), "one smoothed value per window"),
    ],
)
def test_a_document_that_is_not_whole_is_refused(recon, five, change, words):
    found = recon("tasks", five, "--json").document
    change(found)
    Path("changed.json").write_text(json.dumps(found))
    recon("inspect", "changed.json").refuses("`changed.json`", words)
