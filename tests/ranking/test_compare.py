"""Distances of rankings against brute force and SciPy."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from recon_cli.errors import ReconError
from recon_cli.ranking.compare import compare, layer_distance, ranking_similarity, top_k_overlap
from tests.conftest import AUTHORS_RANKING

two_orders = st.integers(2, 12).flatmap(
    lambda n: st.tuples(st.permutations([f"l{i}" for i in range(n)]), st.permutations([f"l{i}" for i in range(n)]))
)


@given(two_orders)
def test_distance_is_equation_22(orders):
    a, b = orders
    positions = {name: (a.index(name) + 1, b.index(name) + 1) for name in a}
    assert layer_distance(a, b) == pytest.approx(sum(abs(i - j) for i, j in positions.values()) / len(a))
    assert layer_distance(a, b) == pytest.approx(layer_distance(b, a))
    assert layer_distance(a, a) == 0


@given(two_orders)
def test_similarity_is_the_share_of_pairs_in_the_same_order(orders):
    a, b = orders
    pairs = list(permutations(a, 2))
    same = sum((a.index(x) > a.index(y)) == (b.index(x) > b.index(y)) for x, y in pairs)
    assert ranking_similarity(a, b) == pytest.approx(same / len(pairs))


@given(two_orders)
def test_similarity_agrees_with_kendalls_tau(orders):
    a, b = orders
    tau = kendalltau(range(len(a)), [b.index(name) for name in a]).statistic
    assert ranking_similarity(a, b) == pytest.approx((tau + 1) / 2)


def test_equal_and_reversed_rankings_are_the_extremes():
    a = [f"l{i}" for i in range(7)]
    assert ranking_similarity(a, a) == 1
    assert ranking_similarity(a, a[::-1]) == 0
    assert ranking_similarity(["only"], ["only"]) == 1


def test_overlap_counts_the_layers_in_both_tops():
    assert top_k_overlap("abcd", "bdca", 2) == 0.5
    assert top_k_overlap("abcd", "bdca", 4) == 1


def test_rankings_of_different_layers_are_refused_unless_the_common_ones_are_asked_for():
    rankings = [["a", "b", "c"], ["c", "a", "d"]]
    with pytest.raises(ReconError, match="`two` lacks `b`; `one` lacks `d`"):
        compare(rankings, ["one", "two"], k=1)
    found = compare(rankings, ["one", "two"], k=1, common_only=True)
    assert found.layers == 2
    assert found.left_out == ("b", "d")
    assert found.distance[0][1] == 1
    with pytest.raises(ReconError, match="no layer in common"):
        compare([["a"], ["b"]], ["one", "two"], k=1, common_only=True)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    orders = {"a.json": "abcd", "b.json": "abdc", "c.json": "dcba"}
    for name, order in orders.items():
        (tmp_path / name).write_text(json.dumps({layer: 10 - i for i, layer in enumerate(order)}))
    return [Path(name) for name in orders]


def test_the_command_compares_any_number_of_rankings(recon, three):
    found = recon("compare-rankings", *three, "--top-k", 2, "--json").succeeds().document
    assert found["schema"] == "recon.comparison/1"
    assert found["distance"] == [[0, 0.5, 2], [0.5, 0, 2], [2, 2, 0]]
    assert found["overlap"] == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    out = recon("compare-rankings", *three).succeeds().out
    assert "2.000" in out
    assert "a.json" in out


def test_rankings_that_lie_too_far_apart_fail_the_check(recon, three):
    assert recon("compare-rankings", *three, "--fail-above", 2).code == 0
    failed = recon("compare-rankings", *three, "--fail-above", 1.9, "--json")
    assert failed.code == 1
    assert "above 1.9" in failed.err
    assert failed.document["layers"] == 4


def test_the_chain_works_in_a_pipe(recon, scores):
    ranked = recon("rank", "-", "-S", "-0.1", "--json", stdin=scores.read_text()).succeeds().out
    recon("rank", scores, "-S", "0", "-o", "other.json", "-q").succeeds()
    found = recon("compare-rankings", "-", "other.json", "--json", stdin=ranked).succeeds().document
    assert found["rankings"] == ["-", "other.json"]
    assert found["layers"] == 4


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
        (["a.json", str(AUTHORS_RANKING)], "hold different layers"),
        (["a.json", "b.json", "--json", "--quiet"], "contradict each other"),
    ],
)
def test_wrong_use_is_refused(recon, three, arguments, words):
    recon("compare-rankings", *arguments).refuses(words)


def test_a_ranking_that_is_not_in_order_is_refused(recon, ranking):
    content = json.loads(ranking.read_text())
    content["layers"].reverse()
    content["layers"][0]["score"] = -1.0
    Path("turned.json").write_text(json.dumps(content))
    recon("compare-rankings", "turned.json", ranking).refuses("`turned.json`", "falling scores")
