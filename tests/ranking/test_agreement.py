"""Measures of two rankings against brute force, SciPy and the paper's figures."""

from __future__ import annotations

from itertools import permutations
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom, kendalltau, spearmanr

from recon_cli.artifacts.ranking import Ranking
from recon_cli.ranking.agreement import (
    distance_by_chance,
    kendall_tau,
    layer_distance,
    overlap_by_chance,
    overlap_probability,
    ranking_similarity,
    spearman_rho,
    top_k_in_common,
)
from recon_cli.zoo import resnet18
from tests.conftest import AUTHORS_RANKING, layer_sizes

two_orders = st.integers(2, 12).flatmap(
    lambda n: st.tuples(st.permutations([f"l{i}" for i in range(n)]), st.permutations([f"l{i}" for i in range(n)]))
)

SCORES = st.integers(0, 5).map(float) | st.floats(allow_nan=False, allow_infinity=False, width=32)
two_scores = st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=30).map(
    lambda pairs: tuple(
        {f"l{place}": score for place, score in enumerate(column)} for column in zip(*pairs, strict=True)
    )
)

TABLE_12 = (2.39, 1.85, 2.14, 1.95, 2.24, 0.68, 1.36, 1.95, 0.82, 0.97)
TABLE_14 = (1.07, 0.78, 1.17, 0.59, 0.83, 0.68, 1.71, 1.32, 1.90, 1.56)


@given(two_orders)
def test_distance_is_equation_22(orders):
    a, b = orders
    positions = {name: (a.index(name) + 1, b.index(name) + 1) for name in a}
    assert layer_distance(a, b) == pytest.approx(sum(abs(i - j) for i, j in positions.values()) / len(a))
    assert layer_distance(a, b) == pytest.approx(layer_distance(b, a))
    assert layer_distance(a, a) == 0


@pytest.mark.parametrize("printed", [*TABLE_12, *TABLE_14])
def test_the_papers_distances_are_those_of_some_orders_of_its_41_layers(printed):
    """Layers that change places add an even number to the sum, so few figures can stand in the paper's tables."""
    order = list(Ranking.read(AUTHORS_RANKING).names)
    moved = order.copy()
    left = round(printed * 41 / 2)
    for place in range(20):
        far = min(left, 40 - 2 * place)
        moved[place], moved[place + far] = moved[place + far], moved[place]
        left -= far
    assert left == 0
    assert layer_distance(order, moved) == pytest.approx(printed, abs=0.01)


@given(two_orders)
def test_similarity_is_the_share_of_pairs_in_the_same_order(orders):
    a, b = orders
    pairs = list(permutations(a, 2))
    same = sum((a.index(x) > a.index(y)) == (b.index(x) > b.index(y)) for x, y in pairs)
    assert ranking_similarity(a, b) == pytest.approx(same / len(pairs))


def test_equal_and_reversed_rankings_are_the_extremes():
    a = [f"l{i}" for i in range(7)]
    assert ranking_similarity(a, a) == 1
    assert ranking_similarity(a, a[::-1]) == 0
    assert ranking_similarity(["only"], ["only"]) == 1
    for size in (2, 41, 1001):
        rising = {f"l{place}": float(place) for place in range(size)}
        falling = {name: -score for name, score in rising.items()}
        assert kendall_tau(rising, rising) == spearman_rho(rising, rising) == 1
        assert kendall_tau(rising, falling) == spearman_rho(rising, falling) == -1


@given(two_scores)
def test_tau_and_rho_agree_with_scipy_whatever_is_tied(scores):
    a, b = scores
    values = list(a.values()), list(b.values())
    if min(len(set(column)) for column in values) == 1:
        assert kendall_tau(a, b) is None
        assert spearman_rho(a, b) is None
        return
    assert kendall_tau(a, b) == pytest.approx(kendalltau(*values).statistic)
    assert spearman_rho(a, b) == pytest.approx(spearmanr(*values).statistic)
    assert -1 <= kendall_tau(a, b) <= 1
    assert -1 <= spearman_rho(a, b) <= 1


@given(two_scores)
def test_tau_and_rho_do_not_depend_on_the_order_of_the_layers_or_the_rankings(scores):
    a, b = scores
    turned = dict(reversed(a.items()))
    assert kendall_tau(a, b) == kendall_tau(b, a) == kendall_tau(turned, b)
    assert spearman_rho(a, b) == spearman_rho(b, a) == spearman_rho(turned, b)


def test_without_ties_tau_and_similarity_are_one_thing():
    a = {"a": 9.0, "b": 4.0, "c": 2.5, "d": 1.0, "e": 0.0}
    b = {"c": 9.0, "a": 4.0, "b": 2.5, "e": 1.0, "d": 0.0}
    assert kendall_tau(a, b) == pytest.approx(2 * ranking_similarity(list(a), list(b)) - 1)


def test_the_published_scores_fall_with_the_layers_sizes():
    """As measured on the authors' files: -0.93 for ResNet-18."""
    scores = {layer.name: layer.score for layer in Ranking.read(AUTHORS_RANKING).layers}
    sizes = layer_sizes(resnet18())
    assert spearman_rho(scores, {name: float(sizes[name]) for name in scores}) == pytest.approx(-0.93, abs=0.005)


def test_the_tops_have_layers_in_common():
    assert top_k_in_common("abcd", "bdca", 2) == 1
    assert top_k_in_common("abcd", "bdca", 4) == 4


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_chance_is_the_mean_over_all_orders(size):
    base = [f"l{place}" for place in range(size)]
    orders = list(permutations(base))
    assert distance_by_chance(size) == pytest.approx(mean(layer_distance(base, order) for order in orders))
    for k in range(1, size + 1):
        common = [top_k_in_common(base, order, k) for order in orders]
        assert overlap_by_chance(size, k) == pytest.approx(mean(common) / k)
        for least in range(k + 1):
            as_many = sum(count >= least for count in common) / len(orders)
            assert overlap_probability(size, k, least) == pytest.approx(as_many)


@given(
    st.integers(1, 400).flatmap(
        lambda n: st.integers(1, n).flatmap(lambda k: st.tuples(st.just(n), st.just(k), st.integers(0, k)))
    )
)
def test_the_probability_of_an_overlap_is_the_hypergeometric_tail(numbers):
    size, k, common = numbers
    assert overlap_probability(size, k, common) == pytest.approx(
        hypergeom.sf(common - 1, size, k, k), rel=1e-6, abs=1e-300
    )


@pytest.mark.parametrize(
    ("layers", "k", "common", "by_chance"),
    [pytest.param(52, 40, 38, 30.8, id="SegNet"), pytest.param(72, 25, 17, 8.7, id="MTAN")],
)
def test_the_papers_overlaps_between_datasets_are_beyond_chance(layers, k, common, by_chance):
    assert k * overlap_by_chance(layers, k) == pytest.approx(by_chance, abs=0.05)
    assert overlap_probability(layers, k, common) < 1e-4
    # What two sets of K layers have to share.
    assert overlap_probability(layers, k, max(0, 2 * k - layers)) == 1
