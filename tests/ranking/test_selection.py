"""The policies that choose layers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.errors import ReconError
from recon_cli.ranking.candidates import Candidate, candidates_of, in_network_order
from recon_cli.ranking.selection import (
    Budget,
    Cost,
    explicit,
    first_k,
    last_k,
    min_score,
    random_layers,
    random_parameters,
    top_k,
    within_budget,
)
from recon_cli.zoo import resnet18
from tests.conftest import AUTHORS_RANKING, layer_sizes

CANDIDATES = candidates_of(Ranking.from_content({"a": 9, "b": 5, "c": 5, "d": 1, "e": 0}, "these tests"))
COSTS = {"a": Cost(100, 400), "b": Cost(10, 40), "c": Cost(50, 200), "d": Cost(5, 20), "e": Cost(1, 4)}


def names(chosen: tuple[Candidate, ...]) -> tuple[str, ...]:
    return tuple(candidate.name for candidate in chosen)


def test_top_k_takes_the_first():
    assert names(top_k(CANDIDATES, 2)) == ("a", "b")
    assert names(top_k(CANDIDATES, 5)) == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("k", [0, -1, 6])
def test_a_k_out_of_range_is_refused(k):
    sizes = dict.fromkeys("abcde", 1)
    for option, choose in {
        "--top-k": lambda: top_k(CANDIDATES, k),
        "--first-k": lambda: first_k(CANDIDATES, k),
        "--last-k": lambda: last_k(CANDIDATES, k),
        "--random-layers": lambda: random_layers(CANDIDATES, k, 0),
        "--random-parameters": lambda: random_parameters(CANDIDATES, k, sizes, 0),
    }.items():
        with pytest.raises(ReconError, match=f"{option} {k} is out of range: the ranking holds 5 layers"):
            choose()


def test_min_score_includes_the_score_itself():
    assert names(min_score(CANDIDATES, 5)) == ("a", "b", "c")
    with pytest.raises(ReconError, match="the highest is 9"):
        min_score(CANDIDATES, 9.5)
    with pytest.raises(ReconError):
        min_score(CANDIDATES, float("nan"))


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
    assert names(within_budget(CANDIDATES, Budget.parse(text), COSTS, 1000)) == chosen


@given(st.integers(5, 300))
def test_a_budget_is_never_exceeded_and_never_spent_on_layers_without_conflicts(limit):
    chosen = names(within_budget(CANDIDATES, Budget(limit, "parameters"), COSTS, 1000))
    assert sum(COSTS[name].parameters for name in chosen) <= limit
    assert "e" not in chosen


def test_a_budget_for_nothing_is_refused():
    with pytest.raises(ReconError, match="too small"):
        within_budget(CANDIDATES, Budget(4, "parameters"), COSTS, 1000)


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


def test_the_first_and_the_last_of_the_network():
    ordered = in_network_order(CANDIDATES, {"c": 1, "e": 2, "a": 3, "d": 4, "b": 5})
    assert names(first_k(ordered, 2)) == ("c", "e")
    assert names(last_k(ordered, 2)) == ("d", "b")
    assert names(last_k(ordered, 5)) == ("c", "e", "a", "d", "b")


def test_random_layers_are_drawn_uniformly():
    counts = dict.fromkeys("abcde", 0)
    for seed in range(2000):
        for name in names(random_layers(CANDIDATES, 2, seed)):
            counts[name] += 1
    assert sum(counts.values()) == 4000
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_a_seed_means_the_same_on_every_machine():
    # Taken down once: SHA-256 does not change with the version of Python.
    drawn = [names(random_layers(CANDIDATES, 2, seed)) for seed in range(4)]
    assert drawn == [("c", "d"), ("c", "d"), ("a", "b"), ("b", "d")]


def ranked(sizes: list[int]) -> tuple[Candidate, ...]:
    layers = [RankedLayer(name=f"l{index}", score=float(-index)) for index in range(len(sizes))]
    return tuple(Candidate("layer", layer.name, layer.score, (layer,)) for layer in layers)


sizes_and_k = st.lists(st.one_of(st.integers(1, 30), st.integers(1, 10**9)), min_size=1, max_size=14).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(1, len(sizes)))
)


@given(sizes_and_k, st.integers(0, 2**64), st.randoms(use_true_random=False))
def test_random_parameters_are_matched_as_well_as_any_single_change_could(case, seed, shuffle):
    sizes, k = case
    candidates = ranked(sizes)
    size = {candidate.name: sizes[index] for index, candidate in enumerate(candidates)}
    chosen = names(random_parameters(candidates, k, size, seed))
    assert chosen
    assert list(chosen) == [name for name in size if name in chosen]
    wanted = sum(sizes[:k])
    error = sum(size[name] for name in chosen) - wanted
    others = [name for name in size if name not in chosen]
    for into in (0, *(size[name] for name in others)):
        for out in (0, *(size[name] for name in chosen)):
            assert abs(error) <= abs(error + into - out)
    again = list(size.items())
    shuffle.shuffle(again)
    assert names(random_parameters(candidates, k, dict(again), seed)) == chosen


@given(st.integers(1, 5), st.integers())
def test_random_layers_are_as_many_as_asked_and_the_same_in_any_order(k, seed):
    chosen = random_layers(CANDIDATES, k, seed)
    assert len(set(chosen)) == k
    assert set(random_layers(CANDIDATES[::-1], k, seed)) == set(chosen)


def test_the_papers_ranking_is_matched_closely_and_not_by_itself():
    size = layer_sizes(resnet18())
    candidates = candidates_of(Ranking.read(AUTHORS_RANKING))
    top = set(names(top_k(candidates, 25)))
    wanted = sum(size[name] for name in top)
    drawn = [set(names(random_parameters(candidates, 25, size, seed))) for seed in range(20)]
    for chosen in drawn:
        assert abs(sum(size[name] for name in chosen) - wanted) <= 0.001 * wanted
    assert len({frozenset(chosen) for chosen in drawn}) > 15
    assert drawn.count(top) <= 2


def test_layers_without_parameters_cannot_be_matched():
    with pytest.raises(ReconError, match="the first 1 layer of the ranking have no parameters"):
        random_parameters(CANDIDATES, 1, dict.fromkeys("abcde", 0), 0)


def test_modules_are_ranked_by_the_mean_of_their_layers():
    content = {"stem": 10, "block.0.conv": 9, "block.1.attn": 8, "block.1.attn.out": 6, "block.0.norm": 3, "fc": 0}
    modules = candidates_of(Ranking.from_content(content, "these tests"), "module")
    assert [(module.name, module.score) for module in modules] == [
        ("stem", 10), ("block.1.attn", 7), ("block.0", 6), ("fc", 0),
    ]  # fmt: skip
    assert [layer.name for layer in modules[1].layers] == ["block.1.attn", "block.1.attn.out"]
    assert names(top_k(modules, 2)) == ("stem", "block.1.attn")
    with pytest.raises(ReconError, match="the ranking holds 4 modules"):
        top_k(modules, 5)
