"""From scores to rankings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Histogram, Scores
from recon_cli.errors import ReconError
from recon_cli.profiling.tally import ConflictTally
from recon_cli.ranking.rank import rank
from tests.conftest import AUTHORS_RANKING, scores_of

SEVERITIES = (0.0, -0.1)


def make_scores(cosines: dict[str, list[list[float]]], tasks: int = 2) -> Scores:
    """Scores of layers on which all pairs had the same cosine, given for every iteration, stage by stage."""
    tallies = {}
    everything = torch.ones(tasks, dtype=torch.bool)
    for name, by_stage in cosines.items():
        tallies[name] = ConflictTally(1, tasks, len(by_stage), SEVERITIES)
        for stage, values in enumerate(by_stage):
            for cosine in values:
                gram = torch.full((1, tasks, tasks), cosine, dtype=torch.float64)
                gram[0].fill_diagonal_(1.0)
                tallies[name].add(stage, gram, everything.unsqueeze(0), everything)
    return scores_of(tallies, [len(values) for values in next(iter(cosines.values()))], SEVERITIES)


SCORES = make_scores(
    {
        "first": [[-0.2, 0.3, 0.5], [-0.05, -0.05, 0.1]],
        "second": [[0.2, 0.3, 0.5], [-0.9, -0.9, -0.9]],
        "third": [[-0.2, 0.3, 0.5], [0.3, 0.3, 0.1]],
    }
)


def names_and_scores(ranking: Ranking) -> list[tuple[str, float]]:
    return [(layer.name, layer.score) for layer in ranking.layers]


def test_layers_stand_by_falling_score_and_ties_in_the_models_order():
    assert names_and_scores(rank(SCORES, -0.1)) == [("second", 3), ("first", 1), ("third", 1)]
    assert names_and_scores(rank(SCORES, 0.0)) == [("first", 3), ("second", 3), ("third", 1)]


def test_a_stage_is_ranked_by_itself():
    assert names_and_scores(rank(SCORES, -0.1, stage=1)) == [("first", 1), ("third", 1), ("second", 0)]
    assert names_and_scores(rank(SCORES, -0.1, stage=2)) == [("second", 3), ("first", 0), ("third", 0)]


def test_any_severity_on_the_edge_of_a_bin_is_exact():
    assert dict(names_and_scores(rank(SCORES, -0.05)))["first"] == 1
    assert dict(names_and_scores(rank(SCORES, -0.045)))["first"] == 3
    assert dict(names_and_scores(rank(SCORES, -0.895)))["second"] == 3
    assert dict(names_and_scores(rank(SCORES, -0.9)))["second"] == 0


def test_a_severity_between_edges_is_refused_with_what_is_possible():
    with pytest.raises(ReconError, match="no exact count for the severity -0.033") as caught:
        rank(SCORES, -0.033)
    assert caught.value.hint == "choose a multiple of 0.005 in (-1, 0], or one of those counted directly: 0, -0.1"


@pytest.mark.parametrize("severity", [0.1, -1.0, -2.0, float("nan")])
def test_a_severity_out_of_range_is_refused(severity):
    with pytest.raises(ReconError, match="is not in"):
        rank(SCORES, severity)


@pytest.mark.parametrize("stage", [0, 3, -1])
def test_a_stage_that_is_not_there_is_refused(stage):
    with pytest.raises(ReconError, match="the scores have stages 1 to 2"):
        rank(SCORES, -0.1, stage)


def test_rates_and_shares_are_of_what_was_measured():
    first = rank(SCORES, -0.1).layers[0]
    assert first.rate == pytest.approx(3 / 6)
    assert first.share == pytest.approx(3 / 5)


def test_the_interval_is_wilsons_of_the_iterations_that_were_measured():
    first, *_, last = rank(SCORES, -0.1).layers
    for layer, conflicts in ((first, 3), (last, 1)):
        assert layer.interval == pytest.approx(binomtest(conflicts, 6).proportion_ci(method="wilson"))
    assert rank(SCORES, -0.1, stage=2).layers[0].interval == pytest.approx(
        binomtest(3, 3).proportion_ci(method="wilson")
    )


def test_more_pairs_in_as_many_iterations_do_not_narrow_the_interval():
    cosines = {"first": [[-0.2, 0.1, -0.2, -0.2, -0.2]]}
    two, four = (rank(make_scores(cosines, tasks), -0.1).layers[0] for tasks in (2, 4))
    assert (two.pairs, four.pairs) == (5, 30)
    assert two.interval == four.interval


def test_a_layer_of_which_nothing_was_measured_has_no_interval():
    ranked = rank(make_scores({"first": [[0.1, -0.2]], "second": [[float("nan")] * 2]}), -0.1)
    assert [(layer.name, layer.rate, layer.interval is None) for layer in ranked.layers] == [
        ("first", 0.5, False),
        ("second", 0.0, True),
    ]


def test_severity_0_is_warned_of_even_quietly_and_no_other_is(recon, scores):
    for options in ((), ("-q",), ("--json",)):
        err = recon("rank", scores, "-S", "0", *options).succeeds().err
        assert err.startswith("warning: at severity 0 ")
        assert "take `-S -0.02` or below" in err
        assert recon("rank", scores, "-S", "-0.02", *options).succeeds().err.count("warning") == 0


def test_a_histogram_must_fit_its_bins():
    with pytest.raises(ValueError, match="does not fit"):
        Histogram(first=399, counts=(1, 1))
    assert Histogram(first=399, counts=(1,)).counts == (1,)


def test_the_command_ranks_scores_and_writes_what_it_shows(recon, scores):
    shown = recon("rank", scores, "-S", "0", "--json").succeeds()
    recon("rank", scores, "-S", "0", "-o", "r.json").succeeds()
    assert Path("r.json").read_text() == shown.out
    assert recon("rank", scores, "-S", "0", "-o", "-").succeeds().out == shown.out
    assert recon("rank", "-", "-S", "0", "--json", stdin=scores.read_text()).succeeds().out == shown.out


def test_people_are_shown_a_table(recon, scores):
    out = recon("rank", scores, "-S", "0").succeeds().out
    for layer in ("conv", "norm", "body.0", "body.2"):
        assert layer in out
    assert "heads" not in out
    assert "95% interval" in out


def test_the_authors_plain_scores_are_ranked_as_they_are(recon):
    ranking = recon("rank", AUTHORS_RANKING, "--json").succeeds().document
    assert len(ranking["layers"]) == 41
    assert all(layer["interval"] is None for layer in ranking["layers"])
    assert [layer["name"] for layer in ranking["layers"]] == list(json.loads(AUTHORS_RANKING.read_text()))
    recon("rank", AUTHORS_RANKING, "-S", "-0.2").refuses("can only be ranked as it is")


def test_plain_scores_in_any_order_are_sorted_stably(recon):
    Path("plain.json").write_text('{"a": 1, "b": 3, "c": 1, "d": 3.5}')
    ranking = recon("rank", "plain.json", "--json").succeeds().document
    assert [layer["name"] for layer in ranking["layers"]] == ["d", "b", "a", "c"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        ("{", ["not valid JSON", "line 1"]),
        ("[1, 2]", ["names no schema", "recon profile"]),
        ("{}", ["names no schema"]),
        ('{"schema": "recon.scores/2"}', ["`recon.scores/2`", "`recon.scores/1` was expected"]),
        ('{"schema": "recon.ranking/1"}', ["`recon.ranking/1`", "`recon profile` writes one"]),
        ('{"schema": "recon.scores/1"}', ["not a valid recon.scores/1 document", "`tasks`"]),
        ('{"conv": "many"}', ["`conv` has no number"]),
        ('{"conv": true}', ["`conv` has no number"]),
        ('{"conv": NaN}', ["NaN is not a number that JSON has"]),
        ('{"conv": 1e999}', ["too large"]),
        ('{"conv": 1, "conv": 2}', ["`conv` stands twice"]),
        ('{"\\u001b[31mconv": "x"}', ["`\\x1b[31mconv`"]),
        ("[" * 100_000, ["nested too deeply"]),
        ("9" * 5000, ["not valid JSON"]),
        ("\xff", ["not valid JSON"]),
    ],
)
def test_a_file_that_holds_no_scores_is_refused(recon, tmp_path, content, words):
    Path("bad.json").write_text(content)
    recon("rank", "bad.json", "-o", "r.json").refuses("`bad.json`", *words)
    recon("rank", "-", "-o", "r.json", stdin=content).refuses("standard input", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


def test_binary_and_missing_files_are_refused(recon):
    Path("bad.json").write_bytes(b"\xff\xfe\x00")
    recon("rank", "bad.json").refuses("`bad.json` is not UTF-8")
    recon("rank", "none.json").refuses("there is no file `none.json`")
    recon("rank", ".").refuses("cannot read `.`: Is a directory")


def test_scores_that_contradict_themselves_are_refused(recon, scores):
    content = json.loads(scores.read_text())
    for change, words in (
        (lambda c: c["layers"].append(c["layers"][0]), "a layer is listed twice"),
        (lambda c: c["severities"].__setitem__(0, c["severities"][1]), "a severity is listed twice"),
        (lambda c: c["z_levels"].__setitem__(0, c["z_levels"][1]), "a z level is listed twice"),
        (lambda c: c["tasks"].__setitem__(0, c["tasks"][1]), "a task is listed twice"),
        (lambda c: c.update(iterations=99), "do not add up"),
        (lambda c: c["layers"][0]["stages"].pop(), "one entry per stage"),
        (lambda c: c["layers"][0]["stages"][0]["conflicts"].pop(), "one count per severity"),
        (lambda c: c.update(stage_iterations=[], iterations=0), "`stage_iterations`"),
        (lambda c: c.update(trunk=[]), "the trunk has not one entry per stage"),
        (lambda c: c["trunk"][0]["conflicts"].pop(), "the trunk has not one count per severity"),
        (lambda c: c["layers"][0]["stages"][0]["conflicts"].__setitem__(0, 9), "more conflicts than pairs"),
        (lambda c: c["layers"][0]["stages"][0]["conflicts"].__setitem__(0, -1), "`layers.0.stages.0.conflicts.0`"),
        (lambda c: c["layers"][0]["stages"][0]["histogram"]["counts"].append(1), "does not add up to the pairs"),
        (lambda c: c["layers"][0]["stages"][0].update(gds=None), "exactly where pairs were measured"),
        (lambda c: c["layers"][0]["stages"][0].update(gds=-1.5), "`layers.0.stages.0.gds`"),
        (lambda c: c["layers"][0]["stages"][0].update(iterations=0), "do not fit the iterations"),
        (lambda c: c["layers"][0]["stages"][0].update(norms=[None, 1.0]), "`norm_iterations` are not 0"),
        (lambda c: c["layers"][0]["stages"][0].update(norms=[1.0], norm_iterations=[1]), "one norm per task"),
        (lambda c: c["layers"][0]["stages"][0].update(norm_iterations=[3, 1]), "more iterations than its stage has"),
        (lambda c: c["layers"][0]["stages"][0].update(non_finite=9), "more pairs than its tasks were there together"),
        (lambda c: c["layers"][0].update(tasks=["left"]), "more pairs in a stage than its iterations allow"),
        (lambda c: c.update(task_iterations=[6]), "one entry per task and pair"),
        (lambda c: c.update(pair_iterations=[]), "one entry per task and pair"),
        (lambda c: c.update(task_iterations=[7, 6]), "more iterations than were measured"),
        (lambda c: c.update(pair_iterations=[5]), "do not fit `task_iterations`"),
        (lambda c: c.update(task_iterations=[5, 6], pair_iterations=[5]), "gradients of task 'left' in more"),
        (lambda c: c.update(extra=1), "`extra`"),
        (lambda c: c.update(seed="0"), "`seed`"),
    ):
        changed = json.loads(json.dumps(content))
        change(changed)
        Path("changed.json").write_text(json.dumps(changed))
        recon("rank", "changed.json").refuses("`changed.json`", words)
