"""Splits for groups of tasks, and splits that remove the most conflict within limits, through the command line."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import nn

from recon_cli.artifacts.dataflow import Dataflow, Operation
from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.ranking import RankedLayer, Ranking, RankingSource
from recon_cli.artifacts.search import SearchResult
from recon_cli.branching.requests import SelectionRequest
from recon_cli.errors import ReconError
from recon_cli.grouping.best import best_groups
from recon_cli.ranking.pairwise import added_up, pair_conflicts
from recon_cli.ranking.rank import rank
from tests.conftest import AUTHORS_RANKING
from tests.relations.making import of_five_tasks
from tests.tradeoff.networks import conflicts

TASKS = ("a", "b", "c", "d")
# Two camps, (a, c) and (b, d); the conflicts of all pairs (a, b), (a, c), (a, d), (b, c), (b, d), (c, d).
CAMPS = {"trunk.0": (9, 1, 8, 9, 0, 7), "trunk.2": (5, 0, 6, 6, 2, 5), "trunk.4": (4, 0, 3, 3, 0, 4)}


def network() -> nn.Module:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    return nn.ModuleDict({"trunk": trunk, "heads": nn.ModuleDict({task: nn.Linear(8, 1) for task in TASKS})})


def flow() -> Dataflow:
    every = tuple(range(len(TASKS)))
    trunk = [
        Operation(
            flops=100, inputs=(place - 1,) if place else (), reads=(f"{name}.weight", f"{name}.bias"), moves=(),
            tasks=every,
        )
        for place, name in enumerate(CAMPS)
    ]  # fmt: skip
    heads = [
        Operation(flops=10, inputs=(2,), reads=(f"heads.{task}.weight",), moves=(), tasks=(place,))
        for place, task in enumerate(TASKS)
    ]
    return Dataflow(tasks=TASKS, operations=(*trunk, *heads))


def ranking_of(between: dict[str, tuple[float, ...] | None]) -> Ranking:
    layers = [
        RankedLayer(name=name, score=sum(CAMPS[name]), between=pairs, tasks=TASKS) for name, pairs in between.items()
    ]
    layers.sort(key=lambda layer: -layer.score)
    source = RankingSource(scores_digest=None, config_digest=None, checkpoint_digest=None, complete=True)
    return Ranking(
        tasks=TASKS, severity=-0.1, stage=None, iterations=10, layers=tuple(layers), unranked=None, source=source,
        flow=flow(),
    )  # fmt: skip


@pytest.fixture
def split(recon, tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    ranking_of(CAMPS).write("ranking.json")

    def run(*options, ranking="ranking.json"):
        return recon("split", "model.pt", "--ranking", ranking, *options, "-o", "out.safetensors", "--force")

    return run


def manifest() -> Manifest:
    return Manifest.read("out.manifest.json")


def groups() -> dict[str, list[tuple[str, ...]]]:
    return {layer.name: [branch.tasks for branch in layer.branches] for layer in manifest().layers}


def test_chosen_layers_have_a_copy_for_each_camp(split, recon):
    result = split("--top-k", 2, "--max-groups", 2).succeeds()
    assert groups() == {"trunk.0": [("a", "c"), ("b", "d")], "trunk.2": [("a", "c"), ("b", "d")]}
    found = manifest()
    assert found.selection.max_groups == 2
    assert found.cost.branched == 2 * 300 + 40
    total, removed = sum(map(sum, CAMPS.values())), (9 + 8 + 9 + 7) + (5 + 6 + 6 + 5)
    assert (found.selection.conflict.found, found.selection.conflict.left) == (total, total - removed)
    assert f"conflict: {removed / total:.2%} of the ranking's is removed" in result.out
    assert "trunk.0: a, c | b, d: +88.24% operations" in result.out
    recon("verify", "out.safetensors", "--source", "model.pt").succeeds()


def test_as_many_groups_as_tasks_leave_no_conflict(split):
    split("--top-k", 3, "--max-groups", 4).succeeds()
    # Three groups do so on this one: b and d never conflict there, but on another layer they do.
    assert groups()["trunk.0"] == [("a",), ("b",), ("c",), ("d",)]
    assert manifest().selection.conflict.left == 0


def test_the_most_conflict_goes_within_both_limits(split):
    # A copy has 72 of the 324 parameters; from the last layer on there are 100 operations, of 340.
    split("--max-params", 72, "--max-cost", 1.3).succeeds()
    assert groups() == {"trunk.4": [("a", "c"), ("b", "d")]}
    split("--max-params", 72).succeeds()
    assert groups() == {"trunk.0": [("a", "c"), ("b", "d")]}
    split("--max-params", "100%", "--max-cost", 1.6).succeeds()
    assert groups() == {"trunk.2": [("a", "c"), ("b", "d")], "trunk.4": [("a", "c"), ("b", "d")]}
    split("--max-params", 3 * 3 * 72).succeeds()
    assert manifest().selection.conflict.left == 0
    assert manifest().selection.policy == "max-params"


def test_a_budget_may_be_in_bytes(split):
    split("--max-params", f"{72 * 4}B").succeeds()
    assert groups() == {"trunk.0": [("a", "c"), ("b", "d")]}
    split("--max-params", f"{72 * 4 - 1}B").refuses("no layer that has conflicts can be split")


def test_modules_are_split_as_a_whole(split):
    split("--max-params", 3 * 72, "--granularity", "module").succeeds()
    assert groups() == {"trunk.0": [("a", "c"), ("b", "d")], "trunk.2": [("a", "c"), ("b", "d")],
                        "trunk.4": [("a", "c"), ("b", "d")]}  # fmt: skip


def test_of_two_tasks_any_ranking_tells_the_conflicts(recon, tmp_path):
    content = json.loads(AUTHORS_RANKING.read_text())
    Path("ranking.json").write_text(json.dumps({name: content[name] for name in ("conv1", "bn1", "fc")}))
    state = {"conv1.weight": torch.zeros(4, 3), "bn1.weight": torch.zeros(4), "fc.weight": torch.zeros(10, 10)}
    torch.save(state, "model.pt")
    options = ["--ranking", "ranking.json", "--tasks", "x,y", "--max-params", 16, "-o", "out.safetensors"]
    recon("split", "model.pt", *options).succeeds()
    assert set(groups()) == {"conv1", "bn1"}
    shares = manifest().selection.conflict
    assert shares.removed == pytest.approx(1 - content["fc"] / (content["conv1"] + content["bn1"] + content["fc"]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--top-k", 2, "--max-groups", 1], "--max-groups 1 would leave every layer shared"),
        (["--max-params", "5%", "--drop", "--max-cost", 2], "keeps within --max-cost by itself"),
        (["--max-params", "lots"], "neither a number of parameters"),
        (["--max-params", "1%"], "within --max-params 1%, no layer that has conflicts can be split"),
        (["--max-params", "99%", "--max-cost", "1.01"], "--max-params 99% and --max-cost 1.01"),
        (["--max-params", "9%", "--top-k", 1], "2 ways to choose the layers are given"),
    ],
)
def test_wrong_use_is_refused(split, options, words):
    split(*options).refuses(words)


@pytest.mark.parametrize("options", [["--max-params", "50%"], ["--top-k", 2, "--max-groups", 2]])
def test_a_ranking_that_does_not_tell_which_tasks_conflict_is_refused(split, options):
    ranking_of(dict.fromkeys(CAMPS)).write("total.json")
    split(*options, ranking="total.json").refuses("does not tell which of the 4 tasks conflict on `trunk.0`")
    split("--top-k", 2, ranking="total.json").succeeds()
    assert manifest().selection.conflict is None


def test_named_layers_have_groups_only_with_a_ranking(split, recon):
    split("--layers", "trunk.2", "--max-groups", 2).succeeds()
    assert groups() == {"trunk.2": [("a", "c"), ("b", "d")]}
    bare = ["split", "model.pt", "--tasks", "a,b,c,d", "--layers", "trunk.2", "-o", "bare.safetensors"]
    recon(*bare, "--max-groups", 2).refuses("not which of the 4 tasks conflict")


@pytest.mark.parametrize("kind", ["conflicts", "excess", "probability"])
def test_a_ranking_tells_the_scores_between_tasks(kind):
    scores = of_five_tasks(200)
    found = rank(scores, -0.1, kind=kind)
    for layer in found.layers:
        between = next(each.between for each in scores.layers if each.name == layer.name)
        counts = between.conflicts[scores.severities.index(-0.1)]
        if kind == "conflicts":
            assert layer.between == counts
            assert sum(layer.between) == layer.score
        else:
            rates = [count / pairs for count, pairs in zip(counts, between.pairs, strict=True)]
            null = layer.rate - layer.score
            assert layer.between == pytest.approx([rate - null for rate in rates])


def test_a_stage_and_other_scores_are_known_of_all_tasks_together_alone():
    scores = of_five_tasks(200)
    assert all(layer.between is None for layer in rank(scores, -0.1, stage=1).layers)
    assert all(layer.between is None for layer in rank(scores, -0.1, kind="magnitude").layers)
    assert all(layer.between is None for layer in rank(scores, -0.125).layers)


def test_what_is_negative_between_two_tasks_is_no_conflict():
    layer = RankedLayer(name="x", score=1.0, between=(-1.0, 2.0, 0.5), tasks=("a", "b", "c"))
    assert pair_conflicts(layer, ("a", "b", "c")) == conflicts((0.0, 2.0, 0.5), 3)


def test_two_of_three_tasks_that_reach_a_layer_have_its_score_between_them():
    layer = RankedLayer(name="x", score=4.0, tasks=("a", "c"))
    assert pair_conflicts(layer, ("a", "b", "c")) == conflicts((0.0, 4.0, 0.0), 3)


def test_the_groups_are_those_of_all_chosen_layers_together():
    matrices = [conflicts(values, 4) for values in CAMPS.values()]
    total = added_up(matrices, 4)
    for one, other in combinations(range(4), 2):
        assert total[one][other] == sum(matrix[one][other] for matrix in matrices)
    assert best_groups(total, 2) == (0, 1, 0, 1)


@pytest.mark.parametrize(
    ("given", "words"), [({"max_groups": 2}, "--max-groups"), ({"granularity": "module"}, "--gran")]
)
def test_a_search_groups_the_tasks_itself(given, words):
    with pytest.raises(ReconError, match=words):
        SelectionRequest(search=SearchResult.model_construct(), **given)
