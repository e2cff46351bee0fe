"""Planted conflicts, of which the truth is known: which scores find them."""

from __future__ import annotations

from statistics import fmean

import pytest

from benchmarks.planted import ITERATIONS, Score, Way, precision, profile
from recon_cli.ranking.rank import rank

COUNT, EXCESS, Z = Score("count", "conflicts", -0.1), Score("excess", "excess", -0.1), Score("z", "z")


def mean_precision(score: Score, strength: float, way: Way) -> float:
    return fmean(precision(profile(seed, strength, way), score) for seed in range(4))


@pytest.mark.parametrize("way", ["steady", "changing"])
def test_strong_conflicts_are_found_by_all(way):
    for score in (COUNT, EXCESS, Z):
        assert mean_precision(score, 0.2, way) > 0.95


def test_weak_conflicts_of_large_layers_are_missed_by_the_count_and_found_in_units_of_the_dimension():
    assert mean_precision(COUNT, 0.02, "steady") < 0.5
    assert mean_precision(Z, 0.02, "steady") > 0.7
    assert mean_precision(COUNT, 0.02, "changing") < 0.5
    assert mean_precision(Z, 0.02, "changing") > 0.7


def test_what_random_directions_have_as_well_is_not_taken_for_a_conflict():
    assert mean_precision(EXCESS, 0.05, "changing") > mean_precision(COUNT, 0.05, "changing") + 0.1


def test_where_nothing_is_planted_the_count_goes_by_size_and_the_others_by_chance():
    found = profile(0, 1e-9, "steady")
    sizes = {layer.name: layer.size for layer in found.scores.layers}
    assert precision(found, Z) < 0.6
    assert all(layer.iterations == ITERATIONS for each in found.scores.layers for layer in each.stages)
    smallest = sorted(sizes, key=sizes.__getitem__)[:10]
    assert len(set(rank(found.scores, -0.1).names[:10]) & set(smallest)) >= 8
    assert len(set(rank(found.scores, kind="z").names[:10]) & set(smallest)) <= 6
