"""The whole trade-off of a ranking, as a document and as tables."""

from __future__ import annotations

from itertools import product
from math import inf
from pathlib import Path

import pytest

from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.tradeoff import Tradeoff
from recon_cli.tradeoff.curve import tradeoff
from tests.branching.test_optimal import CAMPS, TASKS, ranking_of

SIZES = {"trunk.0": 72, "trunk.2": 72, "trunk.4": 72}


def sized(between=CAMPS) -> Ranking:
    ranking = ranking_of(between)
    layers = tuple(layer.model_copy(update={"size": SIZES[layer.name]}) for layer in ranking.layers)
    return ranking.model_copy(update={"layers": layers})


@pytest.fixture
def found(recon) -> Tradeoff:
    sized().write("ranking.json")
    return Tradeoff.from_content(recon("tradeoff", "ranking.json", "--json").succeeds().document, "it")


def test_looser_limits_never_remove_less(found):
    def limits(each):
        return [inf if limit is None else limit for limit in (each.max_parameters, each.max_operations)]

    for one, other in product(found.within, repeat=2):
        if all(loose >= tight for tight, loose in zip(limits(one), limits(other), strict=True)):
            assert other.split.removed >= one.split.removed


def test_every_split_keeps_its_limits_and_all_is_removed_without_any(found):
    for each in found.within:
        if each.max_parameters is not None:
            assert each.split.parameters <= each.max_parameters * found.parameters
        if each.max_operations is not None:
            assert each.split.operations <= each.max_operations
    assert (found.within[-1].max_parameters, found.within[-1].max_operations) == (None, None)
    assert found.within[-1].split.removed == 1


def test_the_published_choice_has_a_copy_for_every_task_of_the_first_layers(found):
    by_k = {each.k: each for each in found.published}
    assert sorted(by_k) == [1, 2, 3]
    total = sum(map(sum, CAMPS.values()))
    assert by_k[1].split.removed == sum(CAMPS["trunk.0"]) / total
    assert by_k[1].split.parameters == 3 * 72
    assert by_k[1].split.operations == pytest.approx((4 * 300 + 40) / 340)
    assert by_k[3].split.removed == 1


def test_what_is_split_instead_removes_no_less_for_no_more(found):
    for each in found.published:
        assert each.instead.removed >= each.split.removed
        assert each.instead.parameters <= each.split.parameters
        assert each.instead.operations <= each.split.operations
    # Two camps of tasks on all three layers, in place of four copies of the first one.
    first = found.published[0]
    assert first.instead.removed > 1.5 * first.split.removed
    assert (first.instead.layers, first.instead.copies) == (3, 2)


def test_of_two_groups_no_layer_has_more_copies(recon):
    found = tradeoff(sized(), 2)
    assert {each.split.copies for each in found.within} <= {1, 2}
    assert found.within[-1].split.operations == pytest.approx((2 * 300 + 40) / 340)


def test_without_a_data_flow_parameters_alone_are_limited(recon):
    ranking = sized().model_copy(update={"flow": None})
    ranking.write("ranking.json")
    result = recon("tradeoff", "ranking.json").succeeds()
    assert "not known, as the ranking does not hold the network's data flow" in result.err
    found = tradeoff(ranking)
    assert {each.max_operations for each in found.within} == {None}
    assert all(each.split.operations is None for each in (*found.within, *found.published))


def test_the_tables_fit_80_columns(recon, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sized().write("ranking.json")
    lines = recon("tradeoff", "ranking.json").succeeds().out.splitlines()
    assert max(map(len, lines)) <= 80
    limits = next(line for line in lines if line.split()[:2] == ["operations", "1%"])
    assert limits.split()[-2:] == ["50%", "any"]


@pytest.mark.parametrize(
    ("ranking", "options", "words"),
    [
        (ranking_of(CAMPS), [], "does not tell how large its layers are"),
        (sized(), ["--max-groups", 1], "--max-groups 1 would leave every layer shared"),
        (sized(dict.fromkeys(CAMPS)), [], "does not tell which of the 4 tasks conflict"),
        (sized(dict.fromkeys(CAMPS, (0,) * 6)), [], "no layer has conflicts"),
    ],
)
def test_wrong_use_is_refused(recon, ranking, options, words):
    ranking.write("ranking.json")
    recon("tradeoff", "ranking.json", *options).refuses(words)


def test_a_plain_ranking_is_refused(recon):
    Path("plain.json").write_text('{"conv1": 3.0}')
    recon("tradeoff", "plain.json").refuses("does not tell how large its layers are")


def test_the_tasks_are_those_of_the_ranking(found):
    assert found.tasks == TASKS
