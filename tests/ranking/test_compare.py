"""Rankings against each other: as a function, for people, and as a command."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import hypergeom, kendalltau, spearmanr

from recon_cli.artifacts.comparison import Comparison
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError
from recon_cli.ranking.compare import compare
from recon_cli.ranking.rank import rank
from recon_cli.ranking.reading import NamedRanking
from recon_cli.reporting.comparison import comparison_view
from tests.conftest import AUTHORS_RANKING, without_series


def named(*scores: dict[str, float]) -> list[NamedRanking]:
    return [
        NamedRanking(f"r{place}", Ranking.from_content(content, "these tests"))
        for place, content in enumerate(scores, start=1)
    ]


def in_order(names: str) -> dict[str, float]:
    """A ranking of layers with a letter for a name, without ties."""
    return {name: float(len(names) - place) for place, name in enumerate(names)}


def shown(comparison: Comparison, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    for item in comparison_view(comparison):
        console.print(item)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


# What is compared


@given(st.data())
def test_every_two_rankings_are_compared_by_every_measure(data):
    size = data.draw(st.integers(2, 9))
    layers = [f"l{place}" for place in range(size)]
    one_ranking = st.lists(st.integers(0, 6).map(float), min_size=size, max_size=size)
    all_scores = [dict(zip(layers, data.draw(one_ranking), strict=True)) for _ in range(3)]
    k = data.draw(st.integers(1, size))
    rankings = named(*all_scores)
    found = compare(rankings, k=k)
    for i, a in enumerate(rankings):
        for j, b in enumerate(rankings):
            scores = [[of[name] for name in layers] for of in (all_scores[i], all_scores[j])]
            places = [[each.ranking.names.index(name) for name in layers] for each in (a, b)]
            common = len(set(a.ranking.names[:k]) & set(b.ranking.names[:k]))
            assert found.distance[i][j] == pytest.approx(sum(abs(x - y) for x, y in zip(*places, strict=True)) / size)
            assert found.similarity[i][j] == pytest.approx((kendalltau(*places).statistic + 1) / 2)
            if min(len(set(each)) for each in scores) > 1:
                assert found.tau[i][j] == pytest.approx(kendalltau(*scores).statistic)
                assert found.rho[i][j] == pytest.approx(spearmanr(*scores).statistic)
            else:
                assert found.tau[i][j] is None
                assert found.rho[i][j] is None
            assert found.overlap[i][j] == common / k
            assert found.overlap_probability[i][j] == pytest.approx(hypergeom.sf(common - 1, size, k, k))


def test_equal_scores_count_as_agreement_of_the_orders_and_as_ties_of_the_scores():
    a = {"one": 5.0, "two": 0.0, "three": 0.0, "four": 0.0}
    b = {"one": 5.0, "two": 3.0, "three": 2.0, "four": 1.0}
    found = compare(named(a, b))
    assert found.distance[0][1] == 0
    assert found.similarity[0][1] == 1
    assert found.tau[0][1] == pytest.approx(3 / (3 * 6) ** 0.5)
    assert found.rho[0][1] == pytest.approx(0.7745966692414834)


def test_rankings_of_different_layers_are_refused_unless_the_common_ones_are_asked_for():
    rankings = named(in_order("abc"), in_order("cad"))
    with pytest.raises(ReconError, match="`r2` lacks `b`; `r1` lacks `d`"):
        compare(rankings)
    found = compare(rankings, common_only=True)
    assert found.layers == found.k == 2
    assert found.left_out == ("b", "d")
    assert found.distance[0][1] == 1
    assert found.tau[0][1] == found.rho[0][1] == pytest.approx(-1)
    with pytest.raises(ReconError, match="no layer in common"):
        compare(named({"a": 1.0}, {"b": 1.0}), common_only=True)


def test_the_top_is_of_10_layers_or_all_if_there_are_fewer():
    assert compare(named(*[in_order("abcdefghijkl")] * 2)).k == 10
    assert compare(named(*[in_order("abc")] * 2)).k == 3


# For people


def test_two_rankings_are_shown_beside_chance():
    lines = shown(compare(named(in_order("abcdefgh"), in_order("badcfegh")), k=3))
    figures = {line.split("  ")[0].strip(): line.split()[-2:] for line in lines}
    assert figures["distance (Eq. 22): places apart, on average"] == ["0.750", "2.625"]
    assert figures["similarity: share of pairs in the same order"] == ["0.893", "0.500"]
    assert figures["Kendall's tau-b of the scores"] == ["0.786", "0.000"]
    assert figures["Spearman's rho of the scores"] == ["0.929", "0.000"]
    assert figures["layers that are in both first 3"] == ["2", "1.1"]
    assert lines[-1] == "2 or more by chance: probability 0.29"


def test_more_rankings_are_shown_as_triangles():
    lines = shown(compare(named(in_order("abcd"), in_order("abdc"), in_order("dcba")), k=2))
    first = lines.index("distance (Eq. 22): places apart, on average (1.25 by chance)")
    assert [line.split() for line in lines[first + 3 : first + 5]] == [["2", "0.50"], ["3", "2.00", "2.00"]]
    assert lines[-1] == "least: 0, of 1 and 3; 0 or more by chance: probability 1"


@pytest.mark.parametrize("size", [3, 12, 40])
def test_many_rankings_fit_80_columns_and_no_figure_is_lost(size):
    layers = [f"l{place}" for place in range(60)]
    turned = [layers[shift:] + layers[:shift] for shift in range(size)]
    found = compare(named(*({name: 60.0 - place for place, name in enumerate(order)} for order in turned)))
    lines = shown(found)
    assert max(len(line) for line in lines) <= 80
    start = lines.index("distance (Eq. 22): places apart, on average (19.99 by chance)")
    stop = next(place for place, line in enumerate(lines) if line.startswith("similarity"))
    seen = {}
    for line in lines[start + 1 : stop]:
        words = line.split()
        if words and all(word.isdigit() for word in words):
            columns = words
        elif words and words[0].isdigit():
            seen.update({(words[0], column): figure for column, figure in zip(columns, words[1:], strict=False)})
    expected = {
        (str(i + 1), str(j + 1)): f"{found.distance[i][j]:.2f}" for i in range(size) for j in range(size) if j < i
    }
    assert seen == expected


def test_what_is_not_defined_is_shown_as_a_dash():
    lines = shown(compare(named({"a": 0.0, "b": 0.0}, in_order("ab"))))
    assert [line.split()[-2:] for line in lines if "of the scores" in line] == [["-", "0.000"]] * 2


# The command


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    for name, order in {"a.json": "abcd", "b.json": "abdc", "c.json": "dcba"}.items():
        (tmp_path / name).write_text(json.dumps(in_order(order)))
    (tmp_path / "flat.json").write_text(json.dumps(dict.fromkeys("abcd", 0)))
    return [Path(name) for name in ("a.json", "b.json", "c.json")]


def test_the_command_compares_any_number_of_rankings(recon, three):
    found = recon("compare-rankings", *three, "--top-k", 2, "--json").succeeds().document
    assert found["schema"] == "recon.comparison/1"
    assert found["distance"] == [[0, 0.5, 2], [0.5, 0, 2], [2, 2, 0]]
    assert found["overlap"] == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert found["tau"] == [[1, pytest.approx(2 / 3), -1], [pytest.approx(2 / 3), 1, pytest.approx(-2 / 3)],
                            [-1, pytest.approx(-2 / 3), 1]]  # fmt: skip
    assert found["rho"][0] == [1, pytest.approx(0.8), -1]
    assert found["overlap_probability"][0] == [pytest.approx(1 / 6), pytest.approx(1 / 6), 1]
    assert found["chance"] == {"distance": 1.25, "overlap": 0.5}
    out = recon("compare-rankings", *three).succeeds().out
    assert "2.00" in out
    assert "a.json" in out


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (["--fail-above", 1.9], ["the largest distance, 2 between `a.json` and `c.json`, is above 1.9"]),
        (["--fail-below", "overlap=0.5"], ["the lowest overlap, 0 between `a.json` and `c.json`, is below 0.5"]),
        (["--fail-below", "tau=-0.9"], ["the lowest tau, -1 between `a.json` and `c.json`, is below -0.9"]),
        (["--fail-below", "rho=0"], ["the lowest rho, -1 between"]),
        (["--fail-below", "similarity=0.1"], ["the lowest similarity, 0 between"]),
        (["--fail-above", 1, "--fail-below", "tau=0", "--fail-below", "overlap=1"], ["distance", "tau", "overlap"]),
    ],
)
def test_rankings_that_lie_too_far_apart_fail_the_check(recon, three, limits, words):
    failed = recon("compare-rankings", *three, "--top-k", 2, *limits, "--json")
    assert failed.code == 1
    assert failed.err.count("warning: ") == len(words)
    assert all(word in failed.err for word in words), failed.err
    assert failed.document["layers"] == 4


def test_rankings_that_keep_the_limits_pass_the_check(recon, three):
    limits = ["--fail-above", 2, *(f"--fail-below={limit}" for limit in ("tau=-1", "rho=-1", "overlap=0"))]
    assert recon("compare-rankings", *three, "--top-k", 2, *limits, "-q").succeeds().err == ""
    recon("compare-rankings", "a.json", "b.json", "--top-k", 2, "--fail-below", "overlap=1").succeeds()


def test_what_cannot_be_known_fails_the_check(recon, three):
    failed = recon("compare-rankings", "a.json", "flat.json", "--fail-below", "tau=-1", "-q")
    assert failed.code == 1
    assert "tau between `a.json` and `flat.json` is not known, because all scores of one are equal" in failed.err


def test_equal_scores_at_the_end_of_the_top_are_told(recon, three):
    told = recon("compare-rankings", "a.json", "flat.json", "--top-k", 2).succeeds().err
    assert "places 2 and 3 of `flat.json` have equal scores" in told
    assert recon("compare-rankings", "a.json", "flat.json").succeeds().err == ""


def test_layers_that_are_left_out_are_counted(recon, three):
    Path("d.json").write_text(json.dumps(in_order("abcde")))
    found = recon("compare-rankings", "a.json", "d.json", "--common", "--json").succeeds()
    assert found.document["left_out"] == ["e"]
    assert "left out: 1 layer that" in found.err


def test_scores_are_ranked_on_the_way(recon, scores, ranking):
    by_hand = compare([NamedRanking("a", rank(Scores.read(scores))), NamedRanking("b", Ranking.read(ranking))])
    found = recon("compare-rankings", scores, ranking, "--json").succeeds()
    assert found.document["distance"] == [list(row) for row in by_hand.distance]
    assert "the rankings are by different severities: -0.1, 0" in found.err
    alike = recon("compare-rankings", scores, ranking, "-S", "0", "--json").succeeds()
    assert alike.document["distance"] == [[0, 0], [0, 0]]
    assert "different severities" not in alike.err
    at_zero = recon("compare-rankings", scores, scores, "-S", "0", "--json").succeeds()
    assert at_zero.err.count("at severity 0") == 1
    assert at_zero.document["distance"] == [[0, 0], [0, 0]]


def test_the_stages_of_a_profile_are_compared(recon, scores):
    found = recon("compare-rankings", "scores.json", "--stages", "-S", "-0.02", "--json").succeeds().document
    profile = Scores.read(scores)
    by_hand = [rank(profile, -0.02, stage) for stage in (1, 2, 3, 4, None)]
    expected = compare([NamedRanking(str(place), each) for place, each in enumerate(by_hand)])
    assert found["rankings"] == [
        *(f"scores.json, stage {stage}" for stage in (1, 2, 3, 4)), "scores.json, whole profile",
    ]  # fmt: skip
    assert found["distance"] == [list(row) for row in expected.distance]
    assert found["tau"] == [list(row) for row in expected.tau]


def test_a_profile_that_ended_early_has_the_stages_that_it_came_to(recon, scores):
    content = json.loads(scores.read_text())
    for part in (content["trunk"], *(layer["stages"] for layer in content["layers"])):
        part[3] = {
            "pairs": 0, "non_finite": 0, "iterations": 0, "conflicts": [0] * len(content["severities"]),
            "histogram": {"first": 0, "counts": []}, "gds": None, "gms": None,
            "norms": [None, None], "norm_iterations": [0, 0],
        }  # fmt: skip
    without_series(content)
    content["iterations"] -= content["stage_iterations"][3]
    content["stage_iterations"][3] = 0
    content["complete"] = False
    content["task_iterations"] = [content["iterations"]] * 2
    content["pair_iterations"] = [content["iterations"]]
    Path("early.json").write_text(json.dumps(content))
    found = recon("compare-rankings", "early.json", "--stages", "--json").succeeds()
    assert len(found.document["rankings"]) == 4
    assert "`early.json, whole profile`: the profile ended early" in found.err


@pytest.mark.parametrize("matrix", ["distance", "similarity", "overlap", "tau", "rho", "overlap_probability"])
def test_a_comparison_that_lacks_figures_is_refused(recon, three, matrix):
    content = recon("compare-rankings", *three, "--json").succeeds().document
    content[matrix][1].pop()
    with pytest.raises(ReconError, match="not one row and one column per ranking"):
        Comparison.from_content(content, "it")


def test_the_chain_works_in_a_pipe(recon, scores):
    ranked = recon("rank", "-", "-S", "-0.1", "--json", stdin=scores.read_text()).succeeds().out
    recon("rank", scores, "-S", "0", "-o", "other.json", "-q").succeeds()
    found = recon("compare-rankings", "-", "other.json", "--json", stdin=ranked).succeeds().document
    assert found["rankings"] == ["-", "other.json"]
    assert found["layers"] == 4


def test_a_comparison_without_the_newer_measures_is_still_read(recon, three):
    content = recon("compare-rankings", *three, "--json").succeeds().document
    for name in ("tau", "rho", "overlap_probability", "chance"):
        del content[name]
    old = Comparison.from_content(content, "an older document")
    assert old.tau == ()
    assert old.chance is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.json"], "needs two or more"),
        (["-", "-"], "`-` is given twice"),
        (["a.json", "none.json"], "there is no file `none.json`"),
        (["a.json", "b.json", "--top-k", "5"], "--top-k 5 is out of range"),
        (["a.json", "b.json", "--top-k", "0"], "--top-k 0 is out of range"),
        (["a.json", "b.json", "--fail-above", "nan"], "--fail-above nan is no distance"),
        (["a.json", "b.json", "--fail-above", "-1"], "--fail-above -1 is no distance"),
        (["a.json", "b.json", "--fail-below", "overlap=80"], "overlap=80: no number from 0 to 1"),
        (["a.json", "b.json", "--fail-below", "tau=nan"], "tau=nan: no number from -1 to 1"),
        (["a.json", "b.json", "--fail-below", "tau"], "write it as tau=0.8"),
        (["a.json", "b.json", "--fail-below", "similarty=1"], "did you mean `similarity`?"),
        (["a.json", "b.json", "--fail-below", "distance=1"], "the distance has --fail-above"),
        (["a.json", "b.json", "--stages"], "no scores are given"),
        (["a.json", "b.json", "-S", "-0.1"], "no scores are given"),
        (["a.json", str(AUTHORS_RANKING)], "hold different layers"),
        (["a.json", "b.json", "--json", "--quiet"], "contradict each other"),
    ],
)
def test_wrong_use_is_refused(recon, three, arguments, words):
    recon("compare-rankings", *arguments).refuses(words)


def test_one_profile_is_no_comparison_without_its_stages(recon, scores):
    recon("compare-rankings", scores).refuses("needs two or more", "pass --stages")
    recon("compare-rankings", scores, "--stages", "-S", "-0.0123").refuses("no exact count for the severity")


def test_a_ranking_that_is_not_in_order_is_refused(recon, ranking):
    content = json.loads(ranking.read_text())
    content["layers"].reverse()
    content["layers"][0]["score"] = -1.0
    Path("turned.json").write_text(json.dumps(content))
    recon("compare-rankings", "turned.json", ranking).refuses("`turned.json`", "falling scores")
