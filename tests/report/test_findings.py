"""What a report shows, against raw cosines, direct counts and the commands that work out the same."""

from __future__ import annotations

import json
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.series import Between
from recon_cli.branching.plan import split_per_task
from recon_cli.branching.streams import count_flops
from recon_cli.conflicts.compare import compare_conflicts
from recon_cli.conflicts.runs import Run
from recon_cli.errors import ReconError
from recon_cli.ranking.agreement import layer_distance
from recon_cli.ranking.rank import rank
from recon_cli.ranking.reading import NamedRanking
from recon_cli.relations.relate import relate_tasks
from recon_cli.report.content import content_of
from recon_cli.report.costs import costs_of, first_covering
from recon_cli.report.materials import read_materials
from recon_cli.report.tasks import task_matrix, tasks_of
from recon_cli.results.runs import Run as ResultRun
from tests.chain.chains import run_chain, write_project
from tests.relations.making import of_five_tasks
from tests.report.making import chain, content, scores
from tests.results.making import results

cosines = st.integers(-99, 99).map(lambda value: value / 100 + 0.003)
stages = st.lists(st.lists(cosines, min_size=5, max_size=5), min_size=2, max_size=2)


@given(st.lists(stages, min_size=1, max_size=4), st.sampled_from([0.0, -0.01, -0.1, -0.35]))
def test_rates_and_histograms_are_those_of_the_raw_cosines(layers, severity):
    profile = scores({f"layer{place}": each for place, each in enumerate(layers)})
    found = content(profile, severity).findings
    by_name = dict(zip((layer.name for layer in found.layers), found.layers, strict=True))
    (own,) = found.distributions
    for place, each in enumerate(layers):
        raw = [cosine for stage in each for cosine in stage]
        layer = by_name[f"layer{place}"]
        assert layer.rate == pytest.approx(np.mean(np.array(raw) < severity))
        assert layer.stages == pytest.approx([np.mean(np.array(stage) < severity) for stage in each])
        assert layer.gds == pytest.approx(np.mean(raw))
        counts = own.layers[found.layers.index(layer)]
        expected, _ = np.histogram(raw, bins=found.layer_bins, range=(-1, 1))
        whole = [0] * counts.first + list(counts.counts)
        assert whole + [0] * (found.layer_bins - len(whole)) == expected.tolist()
    assert [layer.score for layer in found.layers] == sorted((layer.score for layer in found.layers), reverse=True)
    assert found.stages.trunk == pytest.approx([np.mean(np.array(stage) < severity) for stage in layers[0]])


@given(st.data())
def test_the_cost_at_every_k_is_that_of_the_split_itself(data):
    count, tasks = data.draw(st.integers(1, 12)), data.draw(st.sampled_from(["ab", "abc"]))
    names = [f"layer{place}" for place in range(count)]
    flops = data.draw(st.lists(st.integers(0, 50), min_size=count, max_size=count))
    pairs = comb(len(tasks), 2)
    conflicting = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    measured = {
        name: [[-0.5] * (pairs * number) + [0.5] * (pairs * (4 - number))]
        for name, number in zip(names, conflicting, strict=True)
    }
    sizes = data.draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count))
    ranking = rank(scores(measured, tasks=tasks, sizes=sizes, flow=chain(names, tasks, flops)))
    costs = costs_of(ranking)
    shared = count_flops(ranking.flow, ())
    for k, step in enumerate(costs.steps, start=1):
        first = ranking.layers[:k]
        split = [split_per_task(layer.name, (), tuple(tasks)) for layer in first]
        assert step.operations == (count_flops(ranking.flow, split) / shared if shared else None)
        assert step.split_parameters == sum(layer.size for layer in first)
        assert step.added_parameters == (len(tasks) - 1) * step.split_parameters
        assert step.added_bytes == 4 * step.added_parameters
        assert step.covered == pytest.approx(sum(layer.share for layer in first))
    assert costs.steps[first_covering(costs, 0.8) - 1].covered >= 0.8 or not sum(conflicting)


def test_the_overview_says_where_conflicts_are_and_what_a_split_costs():
    bad, good = [[-0.5] * 9 + [0.5], [-0.5] * 5 + [0.5] * 5], [[0.5] * 10, [-0.5] + [0.5] * 9]
    profile = scores(
        {"late": good, "first": bad, "last": good}, [[-0.5] * 8 + [0.5] * 2, [0.5] * 10],
        sizes=[90, 10, 900], flow=chain(["first", "late", "last"]),
    )  # fmt: skip
    said = content(profile)
    assert said.title == "Conflicting gradients of left and right"
    text = " ".join(said.paragraphs)
    assert "3 layers that left and right share were measured on 20 training steps, in 2 stages." in text
    assert "with a cosine below \u22120.1, in 40.0% of all cases, less as training goes on: from 80.0% to 0.0%." in text
    assert "Layer by layer the share goes from 5.0% (late) to 70.0% (first)." in text
    assert "The first layer of the ranking holds 87.5% of the conflicts and 1.00% of the shared parameters" in text
    assert "to split it adds 1.00% parameters and takes 2.00 times the operations." in text
    assert [key.value for key in said.keys] == ["40.0%", "1 of 3", "+1.00%", "2.00 \u00d7"]


def test_the_layer_that_makes_a_split_dear_is_named():
    half, some = [[-0.5] * 6 + [0.5] * 4], [[-0.5] * 5 + [0.5] * 5]
    profile = scores(
        {"first": some, "last": half, "other": [[0.5] * 10]}, flow=chain(["first", "other", "last"], flops=[1, 98, 1])
    )
    assert "takes 2.00 times the operations, as first is among them." in " ".join(content(profile).paragraphs)
    # Alone, the last one adds the hundredth that it is.
    assert content(profile).findings.costs.steps[0].operations == 1.01


def test_without_conflicts_the_overview_says_that():
    said = content(scores({"a": [[0.5, 0.5]], "b": [[0.5, 0.5]]}))
    assert "On no layer by itself do two tasks' gradients have a cosine below \u22120.1." in " ".join(said.paragraphs)
    assert "hold" not in " ".join(said.paragraphs)
    assert said.findings.chosen == 2


def test_layers_and_a_trunk_that_were_never_measured_have_no_rates():
    found = content(scores({"a": [[]], "b": [[]]})).findings
    assert found.stages.whole is None
    assert [(layer.rate, layer.stages, layer.gds) for layer in found.layers] == [(None, (None,), None)] * 2


def test_the_task_matrix_of_two_tasks_is_the_rate_of_both():
    profile = scores({"a": [[-0.5, 0.5, 0.5, 0.5]], "b": [[-0.5, -0.5, -0.5, 0.5]]})
    whole = content(profile).findings.tasks
    assert whole.matrix.rates == ((None, 0.25), (0.25, None))
    assert [(task.name, task.iterations, task.norm) for task in whole.tasks] == [("left", 4, 2.0), ("right", 4, 2.0)]
    assert task_matrix(profile, profile.layers[1], -0.1).rates == ((None, 0.75), (0.75, None))


def test_the_task_matrix_of_more_tasks_is_what_was_counted_between_them():
    profile = scores({"a": [[-0.5] * 12]}, tasks="xyz")
    assert task_matrix(profile, None, -0.1) is None
    counts = tuple((1, 2, 0) if severity == -0.1 else (4, 4, 0) for severity in profile.severities)
    between = Between(pairs=(4, 4, 0), conflicts=counts, cosines=(-0.1, 0.0, None))
    matrix = task_matrix(profile.model_copy(update={"trunk_between": between}), None, -0.1)
    assert matrix.rates == ((None, 0.25, 0.5), (0.25, None, None), (0.5, None, None))


def test_every_layer_has_its_matrix_its_groups_and_the_report_its_courses_as_recon_tasks_finds_them():
    profile = of_five_tasks(200)
    found = content(profile).findings
    assert [layer.name for layer in found.layers] != [layer.name for layer in profile.layers]
    for layer, rates in zip(found.layers, found.tasks.layers, strict=True):
        expected = relate_tasks(profile, -0.1, layer.name)
        pairs = combinations(range(5), 2)
        assert rates.per_mille == tuple(round(1000 * expected.rates[i][j]) for i, j in pairs)
        names = [tuple(profile.tasks[task] for task in group) for group in rates.groups.members]
        assert names == [group.tasks for group in expected.grouping.groups]
        assert (rates.groups.limit, rates.groups.beyond_chance) == (expected.grouping.mean_rate, True)
    whole = relate_tasks(profile, -0.1)
    assert found.tasks.matrix.rates == whole.rates
    assert [(line.measure, line.smoothed, line.last) for line in found.courses.lines] == [
        (course.measure, course.smoothed, course.last) for course in whole.courses
    ]
    assert found.courses.ends == tuple(np.cumsum(whole.windows))
    assert found.courses.last_iterations == whole.last_iterations


def test_a_page_holds_the_matrices_of_as_many_layers_as_do_not_make_it_large():
    profile = of_five_tasks(10)
    layers = tuple(profile.layers[0].model_copy(update={"name": f"layer{place}"}) for place in range(5000))
    tasks = tasks_of(profile.model_copy(update={"layers": layers}), -0.1, [layer.name for layer in layers])
    assert len(tasks.layers) == 4000
    assert tasks_of(scores({"a": [[0.5]]}), -0.1, ["a"]).layers == ()


def test_without_windows_of_time_there_is_no_course():
    assert content(scores({"a": [[0.5, 0.5]]})).findings.courses is None
    assert content(of_five_tasks(1)).findings.courses is None


def test_before_and_after_are_what_compare_conflicts_finds():
    before = scores({"split": [[-0.5] * 4], "kept": [[-0.5, -0.5, 0.5, 0.5]]}, [[-0.5, -0.5, -0.5, 0.5]])
    after = scores({"kept": [[-0.5, 0.5, 0.5, 0.5]]})
    runs = (Run("joint", before), Run("recon", after))
    found = content(before, runs=runs).findings
    expected = compare_conflicts(runs, edges=(0, -0.01, -0.02, -0.03), bound=-0.01)
    assert [run.reduction for run in found.changes.runs] == [None, pytest.approx(expected.runs[1].reduction_percent)]
    assert [run.masses for run in found.changes.runs] == [tuple(m.share for m in run.masses) for run in expected.runs]
    assert {layer.name: layer.runs for layer in found.layers} == {"split": (1.0, None), "kept": (0.5, 0.25)}
    assert [each.name for each in found.distributions] == ["joint", "recon"]
    text = " ".join(content(before, runs=runs).paragraphs)
    assert "recon has 66.7% fewer cosines below \u22120.01 than joint" in text


def test_more_conflicts_than_before_are_called_that():
    before, after = scores({"a": [[-0.5, 0.5]]}), scores({"a": [[-0.5, -0.5]]})
    text = " ".join(content(before, runs=(Run("one", before), Run("two", after))).paragraphs)
    assert "two has 100.0% more cosines below \u22120.01 than one (95% interval " in text


def test_runs_of_other_tasks_are_refused():
    one, other = scores({"a": [[0.5]]}), scores({"a": [[0.5]]}, tasks=("left", "middle"))
    with pytest.raises(ReconError, match="different tasks"):
        content(one, runs=(Run("one", one), Run("other", other)))


def test_a_ranking_that_is_given_decides_and_others_stand_beside_it():
    profile = scores({"a": [[-0.5, 0.5]], "b": [[-0.05, -0.05]]})
    given, other = rank(profile, 0.0), rank(profile, -0.1)
    found = content(profile, rankings=(NamedRanking("at 0", given), NamedRanking("at 0.1", other))).findings
    assert [layer.name for layer in found.layers] == ["b", "a"]
    assert found.severity == 0
    assert [layer.other_places for layer in found.layers] == [(2,), (1,)]
    assert found.other_rankings[0].distance == layer_distance(given.names, other.names) == 1
    anew = content(profile, -0.1, rankings=(NamedRanking("at 0", given),)).findings
    assert [layer.name for layer in anew.layers] == ["a", "b"]
    assert anew.other_rankings[0].name == "at 0"


def test_a_ranking_of_other_scores_is_told_and_one_of_other_layers_refused():
    profile, again = scores({"a": [[-0.5, 0.5]]}), scores({"a": [[-0.5, -0.5]]})
    said = content(profile, rankings=(NamedRanking("r", rank(again)),))
    assert "The ranking was made from other scores than these." in said.notes
    assert content(profile, rankings=(NamedRanking("r", rank(profile)),)).notes == ()
    foreign = rank(scores({"c": [[-0.5]]}))
    with pytest.raises(ReconError, match="`r` lacks `a`; `the scores` lacks `c`"):
        content(profile, rankings=(NamedRanking("r", foreign),))


def test_a_ranking_of_a_stage_leaves_the_rates_of_the_whole_profile_as_they_are():
    profile = scores({"a": [[-0.5, -0.5], [0.5, 0.5]], "b": [[0.5, 0.5], [-0.5, 0.5]]})
    said = content(profile, rankings=(NamedRanking("last", rank(profile, stage=2)),))
    assert said.findings.stage == 2
    assert [(layer.name, layer.rate, layer.stages, layer.whole) for layer in said.findings.layers] == [
        ("b", 0.5, (0, 0.5), 0.25), ("a", 0, (1, 0), 0.5),
    ]  # fmt: skip
    assert "from 25.0% (b) to 50.0% (a)" in " ".join(said.paragraphs)


def test_a_plain_ranking_alone_is_enough():
    ranking = Ranking.from_content({"conv1": 30, "fc": 10}, "r.json")
    said = content(rankings=(NamedRanking("r", ranking),))
    assert said.title == "Conflicting gradients"
    assert said.paragraphs == ("2 layers are ranked.",)
    assert [(layer.name, layer.score, layer.rate) for layer in said.findings.layers] == [
        ("conv1", 30, None), ("fc", 10, None),
    ]  # fmt: skip
    assert said.findings.costs is None


def test_a_severity_without_scores_is_refused():
    with pytest.raises(ReconError, match="--severity ranks scores, and none are given"):
        content(severity=-0.1)


def test_a_severity_that_the_scores_cannot_count_leaves_the_rates_of_the_ranking():
    profile = scores({"a": [[-0.5, 0.5]]})
    ranking = rank(profile).model_copy(update={"severity": -0.123})
    said = content(profile, rankings=(NamedRanking("r", ranking),))
    assert [(layer.rate, layer.stages) for layer in said.findings.layers] == [(0.5, (None,))]
    assert any("no exact count for the severity \u22120.123" in note for note in said.notes)


def test_it_is_said_that_further_seeds_were_measured():
    profile = scores({"a": [[-0.5, 0.5]]})
    (note,) = content(profile, more_seeds=2).notes
    assert "2 more seeds were measured as well and are not shown" in note


def test_results_say_by_how_much_the_others_are_better_than_the_first():
    joint = ResultRun("joint", results({"left/accuracy": [0.5, 0.5]}))
    recon = ResultRun("recon", results({"left/accuracy": [0.55, 0.65]}, bytes=2 << 20, split_layers=1))
    found = content(results=(joint, recon))
    first, second = found.findings.outcomes.runs
    assert first.improvement is None
    assert second.improvement.mean == pytest.approx(20)
    assert "The figures of recon are 20.00% \u00b1 14.14 better than those of joint." in " ".join(found.paragraphs)
    alone = content(results=(joint,)).findings.outcomes
    assert [run.figures[0].mean for run in alone.runs] == [0.5]


def test_a_folder_of_a_whole_run_becomes_one_report(tmp_path):
    run_chain(write_project(tmp_path))
    folder = tmp_path / "out"
    found = content_of(read_materials([folder]), None).findings
    assert [run.name for run in found.runs] == ["joint", "joint-recon"]
    assert [each.name for each in found.distributions] == ["profile", "joint", "joint-recon"]
    ranking, manifest = Ranking.read(folder / "ranking.json"), Manifest.read(folder / "splits/recon.manifest.json")
    assert [layer.name for layer in found.layers] == list(ranking.names)
    assert [layer.name for layer in found.layers if layer.is_split] == [layer.name for layer in manifest.layers]
    (split,) = found.splits
    assert (split.before, split.after) == (manifest.sizes.before.parameters, manifest.sizes.after.parameters)
    assert split.operations == manifest.cost.ratio == found.costs.steps[0].operations
    report = json.loads((folder / "report.json").read_bytes())
    improvement = report["answers"][0]["improvement"]["mean"]
    assert found.outcomes.runs[1].improvement.mean == pytest.approx(improvement)
    reductions = [run["reduction_percent"] for run in report["conflicts"]["runs"]]
    assert [run.reduction for run in found.changes.runs] == reductions
    # Without the report, which a run that is still under way lacks, the same is worked out.
    (folder / "report.json").unlink()
    again = content_of(read_materials([folder]), None).findings
    assert (again.outcomes, again.changes) == (found.outcomes, found.changes)
    one = read_materials([folder / "scores.json", folder / "splits/recon.manifest.json"])
    assert [each.name for each in one.splits] == ["recon"]
    assert content_of(one, None).findings.chosen == 1
