"""Conflicts of several runs: against raw cosines, the paper's tables, and as a command."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import recon_cli
from recon_cli.artifacts.conflict_comparison import ConflictComparison
from recon_cli.artifacts.scores import Scores
from recon_cli.conflicts.compare import compare_conflicts, reduction_percent
from recon_cli.conflicts.runs import Run, read_runs
from recon_cli.errors import ReconError
from recon_cli.profiling.tally import ConflictTally
from recon_cli.ranking.intervals import ratio_interval, wilson_interval
from recon_cli.reporting.conflict_comparison import conflict_comparison_view
from tests import networks
from tests.conftest import scores_of, without_series
from tests.profiling.test_partial_labels import LAYERS, parts

PAPER = (0.0, -0.01, -0.02, -0.03)

Stages = Sequence[Sequence[Sequence[float]]]


def scores_with(stages: Stages, tasks: int = 3) -> Scores:
    """Scores of one layer, `trunk`, whose pairs had these cosines in each iteration of each stage."""
    tally = ConflictTally(1, tasks, len(stages), (0.0,))
    everything = torch.ones(tasks, dtype=torch.bool)
    for stage, iterations in enumerate(stages):
        for cosines in iterations:
            gram = torch.eye(tasks, dtype=torch.float64)
            for (i, j), cosine in zip(combinations(range(tasks), 2), cosines, strict=True):
                gram[i, j] = gram[j, i] = cosine
            tally.add(stage, gram.unsqueeze(0), everything.unsqueeze(0), everything)
    return scores_of({"trunk": tally}, [len(iterations) for iterations in stages], (0.0,))


def two_tasks(*cosines: float) -> Scores:
    """Scores of two tasks with these cosines, one in each iteration."""
    return scores_with([[[cosine] for cosine in cosines]], tasks=2)


def compare(*scores: Scores, edges: Sequence[float] = PAPER, bound: float = -0.01, **options) -> ConflictComparison:
    runs = [Run(f"run{number}", each) for number, each in enumerate(scores)]
    return compare_conflicts(runs, edges=edges, bound=bound, **options)


# What is counted

edges_of_bins = st.integers(-199, 0).map(lambda index: index / 200)
# Those around an edge are what could be counted on the wrong side of it.
cosines = st.one_of(
    st.floats(-1, 1),
    edges_of_bins,
    edges_of_bins.map(lambda edge: float(torch.nextafter(torch.tensor(edge).double(), torch.tensor(-2.0).double()))),
    st.sampled_from([float("nan"), -1.0, 1.0]),
)
iterations = st.lists(st.lists(cosines, min_size=3, max_size=3), min_size=1, max_size=12)
some_runs = st.lists(iterations, min_size=2, max_size=4).filter(
    lambda runs: all(any(cosine == cosine for row in run for cosine in row) for run in runs)
)


@given(some_runs, st.lists(edges_of_bins, min_size=1, max_size=6, unique=True), edges_of_bins)
def test_masses_and_reductions_are_those_of_the_raw_cosines(runs, edges, bound):
    found = compare(*(scores_with([run]) for run in runs), edges=edges, bound=bound)
    finite = [[cosine for row in run for cosine in row if cosine == cosine] for run in runs]
    first = sum(cosine < bound for cosine in finite[0]) / len(finite[0])
    for place, (run, raw, values) in enumerate(zip(found.runs, runs, finite, strict=True)):
        assert (run.pairs, run.non_finite) == (len(values), 3 * len(raw) - len(values))
        assert run.gds == pytest.approx(sum(values) / len(values))
        bounds = [1.1, *sorted(edges, reverse=True), -1.1]
        for mass, upper, lower in zip(run.masses, bounds[:-1], bounds[1:], strict=True):
            assert mass.count == sum(lower <= cosine < upper for cosine in values)
            assert mass.share == mass.count / len(values)
            assert mass.confidence == wilson_interval(mass.share, run.iterations)
        assert sum(mass.share for mass in run.masses) == pytest.approx(1)
        below = sum(cosine < bound for cosine in values) / len(values)
        assert run.below.share == below
        if place == 0 or first == 0:
            assert (run.reduction_percent, run.reduction_confidence) == (None, None)
        else:
            assert run.reduction_percent == pytest.approx(100 * (1 - below / first))
            assert run.reduction_confidence[0] <= run.reduction_percent + 1e-9
            assert run.reduction_confidence[1] >= run.reduction_percent - 1e-9


@given(iterations.filter(lambda run: any(cosine < -0.01 for row in run for cosine in row)))
def test_a_run_against_itself_has_a_reduction_of_0(run):
    scores = scores_with([run])
    assert compare(scores, scores).runs[1].reduction_percent == 0


def test_a_real_profile_is_compared_as_its_own_cosines_say(recon, config):
    raw = []
    for seed in (0, 1):
        recon("profile", config(**parts(), seed=seed), "-o", f"{seed}.json", "--save-cosines", "-q").succeeds()
        raw.append(recon_cli.Cosines.read(f"{seed}.cosines.safetensors"))
    runs = read_runs([Path("0.json"), Path("1.json")])
    reductions = set()
    for stage in (None, 1, 4):
        for row, layer in enumerate((*LAYERS, None)):
            values = [each.cosines[:, row][(each.stages == stage) | (stage is None)] for each in raw]
            values = [each[each.isfinite()] for each in values]
            for bound in (index / 200 for index in range(-199, 1, 6)):
                found = compare_conflicts(runs, edges=PAPER, bound=bound, layer=layer, stage=stage)
                first, second = (float((each < bound).double().mean()) for each in values)
                assert [run.below.share for run in found.runs] == pytest.approx([first, second])
                expected = 100 * (1 - second / first) if first else None
                assert found.runs[1].reduction_percent == pytest.approx(expected)
                reductions.add(expected)
    assert len(reductions) >= 5


def train(model: nn.Module, shared: Sequence[nn.Parameter]) -> tuple[Scores, list[float]]:
    """Scores of a loop of ours, and the cosines of the gradients of the shared parameters as one vector."""
    profiler = recon_cli.ConflictProfiler(model, ["left", "right"], steps=16, samples=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data, raw = networks.TwoTaskData(), []
    for step in range(16):
        batch = slice(8 * (step % 5), 8 * (step % 5) + 8)
        outputs = model(data.images[batch].double())
        losses = {task: F.cross_entropy(outputs[task], getattr(data, task)[batch]) for task in ("left", "right")}
        gradients = [
            torch.cat([part.flatten() for part in torch.autograd.grad(loss, shared, retain_graph=True)])
            for loss in losses.values()
        ]
        raw.append(float(F.cosine_similarity(*gradients, dim=0)))
        optimizer.zero_grad()
        profiler.backward(losses)
        optimizer.step()
    return profiler.scores(), raw


def test_a_branched_network_is_compared_over_the_layers_that_are_still_shared():
    torch.manual_seed(0)
    joint = networks.two_tasks().double()
    plan = recon_cli.branching_plan(joint, ["body.2"], ["left", "right"], torch.rand(4, 1, 5, 5).double())
    branched = recon_cli.branch(networks.two_tasks().double(), plan)
    trunk = [p for name, p in joint.named_parameters() if not name.startswith("heads")]
    left = [p for name, p in branched.named_parameters() if not name.startswith(("heads", "body.2"))]
    assert len(left) == len(trunk) - 2
    (one, before), (other, after) = train(joint, trunk), train(branched, left)
    reductions = set()
    for bound in (0.0, -0.05, -0.1, -0.2, -0.4):
        first, second = (sum(cosine < bound for cosine in raw) / len(raw) for raw in (before, after))
        found = compare(one, other, bound=bound).runs[1].reduction_percent
        assert found == (pytest.approx(100 * (1 - second / first)) if first else None)
        reductions.add(found)
    assert len(reductions) >= 3
    with pytest.raises(ReconError, match="in `run1` the tasks share no layer `body.2`"):
        compare(one, other, layer="body.2")


def test_a_stage_is_compared_by_itself():
    before, after = [[-0.5], [0.5]], [[-0.5], [-0.5]]
    one, other = scores_with([after, before], tasks=2), scores_with([before, after], tasks=2)
    assert compare(one, other, stage=1).runs[1].reduction_percent == 50
    assert compare(one, other, stage=2).runs[1].reduction_percent == -100
    assert compare(one, other).runs[1].reduction_percent == 0


def test_edges_stand_from_the_highest_to_the_lowest_and_may_be_above_0():
    found = compare(two_tasks(0.7, 0.1, -0.5), two_tasks(0.2), edges=[-0.02, 0.5, -0.0])
    assert found.edges == (0.5, 0.0, -0.02)
    assert str(found.edges[1]) == "0.0"
    assert [mass.count for mass in found.runs[0].masses] == [1, 1, 0, 1]


def test_tasks_in_another_order_are_the_same_tasks():
    turned = two_tasks(-0.5, 0.5).model_copy(update={"tasks": ("b", "a")})
    assert compare(two_tasks(-0.5), turned).runs[1].reduction_percent == 50


# The paper's tables: the masses in percent below the bound, and the Reduction row, of joint training and the others

TABLE_6 = {
    "joint": ((9.26, 2.05, 1.25), None), "RSL": ((13.45, 4.18, 1.58), -52.94), "RSP": ((6.38, 0.8, 0.34), 40.13),
    "Recon": ((3.04, 0.5, 0.25), 69.82), "MGDA": ((8.87, 1.71, 1.0), 7.80),
    "MGDA w/ Recon": ((2.12, 0.26, 0.18), 79.62),
    "Graddrop": ((8.93, 1.72, 1.03), 7.01), "Graddrop w/ Recon": ((3.32, 0.54, 0.26), 67.20),
    "PCGrad": ((9.09, 1.90, 1.10), 3.74), "PCGrad w/ Recon": ((2.87, 0.42, 0.2), 72.21),
    "CAGrad": ((9.37, 2.00, 1.20), -0.08), "CAGrad w/ Recon": ((2.44, 0.41, 0.25), 75.32),
}  # fmt: skip
TABLE_8 = {
    "joint": ((8.52, 6.45, 4.79, 10.54), None), "RSL": ((7.34, 5.69, 4.53, 20.26), -24.82),
    "Recon": ((5.13, 0.94, 0.14, 0.03), 79.41), "MGDA w/ Recon": ((5.54, 2.23, 0.85, 0.56), 69.70),
}  # fmt: skip
TABLE_9 = {
    "joint": ((3.39, 3.11, 24.05), None), "RSL": ((3.43, 3.30, 33.31), -31.06), "Recon": ((2.89, 1.13, 0.76), 84.35),
    "CAGrad w/ Recon": ((2.71, 1.01, 0.63), 85.76),
}  # fmt: skip
TABLE_10 = {
    "joint": ((7.90, 5.85, 4.16, 11.16), None), "RSP": ((9.10, 3.88, 1.79, 2.29), 41.31),
    "Recon": ((7.65, 2.59, 1.07, 1.13), 57.21), "MGDA w/ Recon": ((2.04, 0.45, 0.17, 0.20), 90.16),
}  # fmt: skip


@pytest.mark.parametrize("table", [TABLE_6, TABLE_8, TABLE_9, TABLE_10])
def test_the_papers_reductions_follow_from_its_rows(table):
    (baseline, _), *others = table.values()
    assert len(others) >= 3
    for masses, printed in others:
        # Each of the masses was rounded to 0.01.
        assert reduction_percent(sum(masses), sum(baseline)) == pytest.approx(printed, abs=0.03)


def test_a_run_with_the_papers_masses_has_the_papers_reductions():
    def scores(*percents: float) -> Scores:
        """Of 10,000 cosines, in the middle of the intervals of Table 6."""
        counts = [round(100 * share) for share in percents]
        counts[0] += 10_000 - sum(counts)
        whole = two_tasks(0.0, -0.006, -0.016, -0.026, -0.5)
        content = json.loads(whole.to_bytes())
        without_series(content)
        bins = {200: counts[0], 198: counts[1], 196: counts[2], 194: counts[3], 100: counts[4]}
        histogram = {"first": 100, "counts": [bins.get(index, 0) for index in range(100, 201)]}
        for stage in (*content["trunk"], *content["layers"][0]["stages"]):
            stage.update(pairs=10_000, iterations=10_000, histogram=histogram, norm_iterations=[10_000] * 2)
        content.update(dict.fromkeys(("steps", "steps_requested", "iterations", "iterations_requested"), 10_000))
        content.update(stage_iterations=[10_000], task_iterations=[10_000] * 2, pair_iterations=[10_000])
        return Scores.from_content(content, "these")

    joint, recon = scores(56.56, 31.25, 9.26, 2.05, 1.25), scores(58.53, 37.67, 3.04, 0.5, 0.25)
    first, second = compare(joint, recon).runs
    shares = [round(100 * mass.share, 2) for mass in second.masses]
    assert shares[1:] == [37.67, 3.04, 0.5, 0.25]
    assert round(100 * first.below.share, 2) == 12.56
    assert round(second.reduction_percent, 2) == 69.82
    assert second.reduction_confidence == pytest.approx((67.0, 72.4), abs=1)


def test_the_interval_of_a_reduction_is_that_of_the_ratio_of_the_iterations():
    one = scores_with([[[-0.5, -0.5, 0.5]] * 3 + [[0.5, 0.5, 0.5]] * 5])
    other = scores_with([[[-0.5, 0.5, 0.5]] * 4])
    first, second = compare(one, other).runs
    least, most = ratio_interval(1 / 3, 4, 6 / 24, 8)
    assert second.reduction_confidence == pytest.approx((100 * (1 - most), 100 * (1 - least)))
    assert (first.iterations, second.iterations) == (8, 4)


# What is refused


@pytest.mark.parametrize("bound", [-0.033, 0.005, -1.0, -2.0, float("nan"), float("-inf"), 1e300, -0.0100001])
def test_a_bound_that_is_no_edge_of_the_histogram_is_refused(bound):
    with pytest.raises(ReconError, match="--bound .* is no edge of the histograms") as caught:
        compare(two_tasks(-0.5), two_tasks(-0.5), bound=bound)
    assert caught.value.hint == "choose a multiple of 0.005 in (-1, 0]"


def test_only_the_histogram_tells_of_bounds_even_where_conflicts_were_counted_at_others():
    scores = two_tasks(-0.5).model_copy(update={"severities": (-0.033,)})
    with pytest.raises(ReconError, match="--bound -0.033"):
        compare(scores, scores, bound=-0.033)


@pytest.mark.parametrize("edge", [-0.033, 1.0, -1.0, float("nan")])
def test_an_edge_that_is_none_of_the_histogram_is_refused(edge):
    with pytest.raises(ReconError, match="--edges .* is no edge of the histograms"):
        compare(two_tasks(-0.5), two_tasks(-0.5), edges=[0.0, edge])


def test_runs_of_other_tasks_are_refused_with_the_difference():
    other = two_tasks(-0.5).model_copy(update={"tasks": ("a", "c")})
    with pytest.raises(ReconError, match="the runs have different tasks: `run1` lacks `b`; `run0` lacks `c`"):
        compare(two_tasks(-0.5), other)
    with pytest.raises(ReconError, match="different tasks: `run2` lacks `c`$"):
        compare(scores_with([[[0.1] * 3]]), scores_with([[[0.1] * 3]]), two_tasks(-0.5))


def test_a_run_without_pairs_is_refused():
    nothing = scores_with([[[0.1]], [[float("nan")]]], tasks=2)
    something = scores_with([[[0.1]], [[0.1]]], tasks=2)
    assert compare(something, nothing).runs[1].non_finite == 1
    with pytest.raises(ReconError, match="in `run1` no pair of tasks was measured on all shared layers") as caught:
        compare(something, nothing, stage=2)
    assert caught.value.hint == "1 pair held NaN or an infinity"
    with pytest.raises(ReconError, match="in `run1` no pair of tasks was measured on layer `trunk`"):
        compare(something, nothing, stage=2, layer="trunk")


def test_a_stage_or_a_layer_that_is_not_there_is_refused_with_the_run():
    four, two = (scores_with([[[0.1]]] * stages, tasks=2) for stages in (4, 2))
    with pytest.raises(ReconError, match="`run0`: there is no stage 3: the scores have stages 1 to 2"):
        compare(two, two, stage=3)
    with pytest.raises(ReconError, match="different stages: `run0` has 4, `run1` 2"):
        compare(four, two, stage=1)
    assert compare(four, two).runs[1].below.count == 0
    with pytest.raises(ReconError, match="in `run0` the tasks share no layer `trunc`") as caught:
        compare(two, two, layer="trunc")
    assert caught.value.hint == "did you mean `trunk`?"


# The command


@pytest.fixture
def runs(recon, tmp_path) -> list[str]:
    """A joint run as a file, and a better one and a worse one in folders."""
    two_tasks(-0.5, -0.5, 0.5, 0.5).write("joint.json")
    for name, cosines in {"better": (-0.5, 0.5, 0.5, -0.005), "worse": (-0.5, -0.5, -0.5, -0.015)}.items():
        (tmp_path / name).mkdir()
        two_tasks(*cosines).write(tmp_path / name / "scores.json")
    return ["joint.json", "better", "worse"]


def test_the_command_compares_files_folders_and_standard_input(recon, runs):
    found = recon("compare-conflicts", *runs, "--json").succeeds().document
    assert found["schema"] == "recon.conflict-comparison/1"
    assert [run["name"] for run in found["runs"]] == runs
    assert [run["reduction_percent"] for run in found["runs"]] == [None, 50, -100]
    assert [mass["count"] for mass in found["runs"][1]["masses"]] == [2, 1, 0, 0, 1]
    assert (found["edges"], found["bound"]) == ([0, -0.01, -0.02, -0.03], -0.01)
    piped = recon("compare-conflicts", "-", *runs[1:], "--json", stdin=Path("joint.json").read_text()).succeeds()
    assert piped.document == {**found, "runs": [{**found["runs"][0], "name": "-"}, *found["runs"][1:]]}


def test_the_options_choose_what_is_compared(recon, runs):
    options = ["--edges", "-0.02,0", "-b", "-0.02", "--layer", "trunk", "--stage", 1]
    found = recon("compare-conflicts", *runs, *options, "--json").succeeds().document
    assert [run["reduction_percent"] for run in found["runs"]] == [None, 50, -50]
    assert (found["layer"], found["stage"], found["edges"]) == ("trunk", 1, [0, -0.02])


def test_people_are_shown_intervals_as_they_are_closed(recon, runs):
    out = recon("compare-conflicts", *runs).succeeds().out
    upper, lower = (line.split() for line in out.splitlines()[6:8])
    assert [f"{a} {b}" for a, b in zip(upper, lower, strict=True)] == [
        "[0, 1]", "[-0.01, 0)", "[-0.02, -0.01)", "[-0.03, -0.02)", "[-1, -0.03)",
    ]  # fmt: skip
    assert "  3  worse" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("2 ")]
    assert rows[0] == ["2", "50.00%", "25.00%", "0.00%", "0.00%", "25.00%"]
    assert [rows[1][place] for place in (1, 2, 6)] == ["4", "25.00%", "50.00%"]
    assert "-100.00%" in out


def test_twelve_runs_fit_a_terminal_of_100_columns(recon):
    many = [two_tasks(*[-0.5] * (count + 20), *[0.5] * 30) for count in range(12)]
    edges = (0, -0.02, -0.04, -0.06, -0.08)
    console = Console(file=io.StringIO(), width=100, highlight=False)
    for item in conflict_comparison_view(compare(*many, edges=edges, bound=-0.04)):
        console.print(item)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert sum(line.startswith("12 ") and "%" in line for line in shown.splitlines()) == 2


def test_the_comparison_is_written_as_it_is_printed(recon, runs):
    shown = recon("compare-conflicts", *runs, "--json").succeeds().out
    recon("compare-conflicts", *runs, "-o", "c.json", "-q").succeeds()
    assert Path("c.json").read_text() == shown
    assert recon("compare-conflicts", *runs, "-o", "-").succeeds().out == shown
    recon("compare-conflicts", *runs, "-o", "c.json").refuses("`c.json` exists already")
    recon("compare-conflicts", *runs, "-o", "c.json", "--force", "-q").succeeds()
    before = Path("better/scores.json").read_bytes()
    recon("compare-conflicts", *runs, "-o", "better/scores.json", "--force").refuses("is the input")
    assert Path("better/scores.json").read_bytes() == before


def test_what_is_odd_about_a_run_is_told(recon, runs):
    two_tasks(0.5, float("nan")).model_copy(update={"complete": False}).write("odd.json")
    err = recon("compare-conflicts", "odd.json", *runs).succeeds().err
    assert "`odd.json` ended early, after 1 measured iteration" in err
    assert "in `odd.json`, 1 pair of gradients held NaN" in err
    assert "`odd.json` has no cosine below -0.01, so there is nothing to reduce" in err
    assert recon("compare-conflicts", "odd.json", *runs, "-q").succeeds().err == ""


def test_copies_of_a_run_have_no_reduction(recon, runs):
    shutil.copytree("better", "copy")
    assert recon("compare-conflicts", "better", "copy", "--json").document["runs"][1]["reduction_percent"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["joint.json"], ["needs two or more"]),
        (["-", "-"], ["`-` is given twice"]),
        (["joint.json", "worse", "./joint.json"], ["`joint.json`", "are one run"]),
        (["better", "joint.json", "better/scores.json"], ["`better/scores.json`", "are one run"]),
        (["joint.json", "none.json"], ["there is no file `none.json`"]),
        (["joint.json", "."], ["there is no file `scores.json`", "name one of its folders, as `better`"]),
        (["joint.json", "better", "-b", "-0.033"], ["--bound -0.033 is no edge", "multiple of 0.005 in (-1, 0]"]),
        (["joint.json", "better", "--edges", "0,-0.033"], ["--edges -0.033 is no edge"]),
        (["joint.json", "better", "--edges", "0,x"], ["`x` is no number"]),
        (["joint.json", "better", "--edges", ""], ["`` is no number"]),
        (["joint.json", "better", "--edges", "0,-0.0"], ["--edges holds 0 twice"]),
        (["joint.json", "better", "--stage", "2"], ["`joint.json`: there is no stage 2"]),
        (["joint.json", "better", "--layer", "conv"], ["share no layer `conv`", "they share `trunk`"]),
        (["joint.json", "better", "--json", "--quiet"], ["contradict each other"]),
    ],
)
def test_wrong_use_is_refused(recon, runs, arguments, words):
    recon("compare-conflicts", *arguments).refuses(*words)


def test_files_that_hold_no_scores_or_other_tasks_are_refused(recon, runs, ranking):
    recon("compare-conflicts", "joint.json", ranking).refuses("`recon.scores/1` was expected")
    scores_with([[[0.1] * 3]]).write("three.json")
    recon("compare-conflicts", "joint.json", "three.json").refuses("different tasks: `joint.json` lacks `c`")


def test_a_document_whose_masses_do_not_add_up_is_refused(recon, runs):
    recon("compare-conflicts", *runs, "-o", "c.json", "-q").succeeds()
    for change, words in (
        (lambda run: run["masses"].pop(), "one mass per interval"),
        (lambda run: run["masses"][0].update(count=3), "do not add up"),
    ):
        content = json.loads(Path("c.json").read_text())
        change(content["runs"][1])
        Path("changed.json").write_text(json.dumps(content))
        recon("inspect", "changed.json").refuses("`changed.json`", words)
