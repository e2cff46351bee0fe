"""How certain a ranking is: a bootstrap that is compared with profiles that really were repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon_cli.errors import ReconError
from recon_cli.profiling.tally import ConflictTally
from recon_cli.ranking.rank import rank
from recon_cli.ranking.resampling import halvings
from recon_cli.ranking.stability import rank_with_stability
from recon_cli.ranking.trials import quarters
from tests.conftest import scores_of

SEVERITIES = (0.0, -0.1)
RATES = (0.9, 0.5, 0.45, 0.1, 0.1)
ITERATIONS = 128
K = 2


def profile(seed, rates=RATES, iterations=ITERATIONS):
    """Scores of layers that conflict independently at these rates."""
    generator = np.random.default_rng(seed)
    there = torch.ones(2, dtype=torch.bool)
    tallies = {}
    for place, rate in enumerate(rates):
        tally = tallies[f"layer{place}"] = ConflictTally(1, 2, 4, SEVERITIES)
        for step in range(iterations):
            cosine = -0.5 if generator.random() < rate else 0.5
            gram = torch.tensor([[[1.0, cosine], [cosine, 1.0]]], dtype=torch.float64)
            tally.add(step * 4 // iterations, gram, there[None], there)
    return scores_of(tallies, [iterations // 4] * 4, SEVERITIES)


@pytest.fixture(scope="module")
def ranked():
    return rank_with_stability(profile(0), K)


def test_the_ranking_itself_is_the_same(ranked):
    plain = rank(profile(0))
    assert [(layer.name, layer.score) for layer in ranked.layers] == [(la.name, la.score) for la in plain.layers]
    assert ranked.source == plain.source


def test_a_layer_is_in_the_top_as_often_as_in_profiles_that_are_repeated():
    counts = np.random.default_rng(0).binomial(ITERATIONS, RATES, size=(10_000, len(RATES)))
    truth = (np.argsort(np.argsort(-counts, axis=1, kind="stable"), axis=1) < K).mean(0)
    found = [rank_with_stability(profile(seed), K) for seed in range(8)]
    for place, share in enumerate(truth):
        shares = [next(layer.in_top for layer in each.layers if layer.name == f"layer{place}") for each in found]
        # The bootstrap has the chance of the one profile in it as well.
        assert np.mean(shares) == pytest.approx(share, abs=0.2)
    assert truth[0] == 1.0
    assert all(each.layers[0].in_top == 1.0 for each in found)


@pytest.mark.parametrize("rates", [(0.3,) * 12, tuple(np.linspace(0.1, 0.6, 12)), (0.9,) * 4 + (0.1,) * 8])
def test_two_halves_share_what_two_profiles_of_half_the_length_do(rates):
    generator, k = np.random.default_rng(0), 4

    def shared(one, other):
        first, second = (np.argsort(np.argsort(-counts, axis=1, kind="stable"), axis=1) < k for counts in (one, other))
        return (first & second).sum(1).mean() / k

    truth = shared(*generator.binomial(ITERATIONS // 2, rates, size=(2, 10_000, len(rates))))
    dealt = np.array([*halvings(ITERATIONS, 1)])
    profiles = generator.binomial(1, rates, size=(60, ITERATIONS, len(rates)))
    found = [shared(dealt[:, 0] @ windows, dealt[:, 1] @ windows) for windows in profiles]
    assert np.mean(found) == pytest.approx(truth, abs=0.03)


def test_the_halves_of_a_profile_are_ranked_as_profiles_are(ranked):
    series = [layer.series.conflicts[SEVERITIES.index(-0.1)] for layer in profile(0).layers]
    shared = []
    for both in halvings(ITERATIONS, ranked.stability.block):
        counts = [[sum(np.multiply(times, conflicts)) for conflicts in series] for times in both]
        first, second = (set(sorted(range(len(RATES)), key=lambda layer, of=of: -of[layer])[:K]) for of in counts)
        shared.append(len(first & second) / K)
    assert ranked.stability.overlap == pytest.approx(np.mean(shared), abs=1e-12)


def test_halves_are_made_of_whole_blocks_of_each_quarter():
    for windows, block in ((16, 1), (50, 3), (97, 6)):
        sizes = set()
        for one, other in halvings(windows, block):
            assert [first + second for first, second in zip(one, other, strict=True)] == [1] * windows
            sizes.add(sum(one))
            for part in quarters(one):
                blocks = [part[begin : begin + block] for begin in range(0, len(part), block)]
                assert all(len(set(each)) == 1 for each in blocks)
                assert abs(2 * sum(each[0] for each in blocks) - len(blocks)) <= 1
        # An odd block, or one that is shorter, is in either half.
        assert len(sizes) > 1 or windows == 16


def test_layers_of_clearly_different_rates_are_of_different_tiers(ranked):
    tiers = {layer.name: layer.tier for layer in ranked.layers}
    assert tiers["layer0"] == 1
    assert tiers["layer1"] == tiers["layer2"] == 2
    assert tiers["layer3"] == tiers["layer4"] == 3
    assert ranked.layers[0].places == (1, 1)
    assert all(layer.places[0] <= place <= layer.places[1] for place, layer in enumerate(ranked.layers, start=1))


def test_more_iterations_settle_what_is_open_and_fewer_what_is_clear(ranked):
    assert ranked.stability.iterations_to_settle > ITERATIONS
    clear = rank_with_stability(profile(0), 1).stability
    assert clear.iterations_to_settle < ITERATIONS
    assert clear.overlap == 1.0


def test_layers_with_equal_scores_are_not_settled_by_any_number():
    equal = rank_with_stability(profile(0, rates=(1.0, 1.0, 0.0)), 1)
    assert equal.stability.iterations_to_settle is None
    assert [layer.tier for layer in equal.layers] == [1, 1, 2]


def test_at_severity_0_random_directions_are_all_one_tier():
    ranking = rank_with_stability(profile(0, rates=(0.5,) * 6), 3, severity=0.0)
    assert {layer.tier for layer in ranking.layers} == {1}


def test_it_is_the_same_each_time(ranked):
    assert rank_with_stability(profile(0), K) == ranked


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ReconError, match="12 windows of time are too few"):
        rank_with_stability(profile(0, iterations=12), K)
    with pytest.raises(ReconError, match="conflicts below -0.3 came over time"):
        rank_with_stability(profile(0), K, severity=-0.3)
    with pytest.raises(ReconError, match="--stability 6 is out of range"):
        rank_with_stability(profile(0), 6)


def test_the_command_says_how_certain_the_top_is(recon, config):
    recon("profile", config(profile={"iterations": 20}), "-o", "scores.json").succeeds()
    shown = recon("rank", "scores.json", "--stability", 1).succeeds()
    assert "in the first 1" in shown.out
    document = recon("rank", "scores.json", "--stability", 1, "--json").succeeds().document
    assert document["stability"]["k"] == 1
    assert all(layer["tier"] >= 1 for layer in document["layers"])


def test_the_command_explains_each_score(recon):
    shown = recon("rank", "--explain").succeeds()
    for name in ("conflicts", "excess", "z", "per-operation"):
        assert f"\n{name}\n" in f"\n{shown.out}"
