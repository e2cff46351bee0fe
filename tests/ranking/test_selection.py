"""The policies that choose layers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.artifacts.ranking import Ranking
from recon_cli.errors import ReconError
from recon_cli.ranking.selection import Budget, Cost, explicit, min_score, top_k, within_budget

RANKING = Ranking.from_content({"a": 9, "b": 5, "c": 5, "d": 1, "e": 0}, "these tests")
COSTS = {"a": Cost(100, 400), "b": Cost(10, 40), "c": Cost(50, 200), "d": Cost(5, 20), "e": Cost(1, 4)}


def test_top_k_takes_the_first():
    assert top_k(RANKING, 2) == ("a", "b")
    assert top_k(RANKING, 5) == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("k", [0, -1, 6])
def test_a_k_out_of_range_is_refused(k):
    with pytest.raises(ReconError, match="the ranking holds 5 layers"):
        top_k(RANKING, k)


def test_min_score_includes_the_score_itself():
    assert min_score(RANKING, 5) == ("a", "b", "c")
    with pytest.raises(ReconError, match="the highest is 9"):
        min_score(RANKING, 9.5)
    with pytest.raises(ReconError):
        min_score(RANKING, float("nan"))


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("65", ("b", "c", "d")),
        ("60", ("b", "c")),
        ("0.1k", ("a",)),
        ("110", ("a", "b")),
        ("60B", ("b", "d")),
        ("0.25KB", ("b", "c")),
        ("6%", ("b", "c")),
        ("1MiB", ("a", "b", "c", "d")),
        ("100%", ("a", "b", "c", "d")),
    ],
)
def test_a_budget_takes_down_the_ranking_what_still_fits(text, chosen):
    assert within_budget(RANKING, Budget.parse(text), COSTS, 1000) == chosen


@given(st.integers(5, 300))
def test_a_budget_is_never_exceeded_and_never_spent_on_layers_without_conflicts(limit):
    chosen = within_budget(RANKING, Budget(limit, "parameters"), COSTS, 1000)
    assert sum(COSTS[name].parameters for name in chosen) <= limit
    assert "e" not in chosen


def test_a_budget_for_nothing_is_refused():
    with pytest.raises(ReconError, match="too small"):
        within_budget(RANKING, Budget(4, "parameters"), COSTS, 1000)


@pytest.mark.parametrize("text", ["", "many", "-5", "5 percent", "1e3", "5%%", "nan", "inf", "5 TB"])
def test_a_budget_that_is_none_is_refused(text):
    with pytest.raises(ReconError, match="neither a number of parameters, nor of bytes, nor a percentage"):
        Budget.parse(text)


def test_named_layers_are_taken_once_each():
    assert explicit(["b", "a"]) == ("b", "a")
    with pytest.raises(ReconError, match="`a` twice"):
        explicit(["a", "b", "a"])
    with pytest.raises(ReconError, match="empty name"):
        explicit(["a", ""])
