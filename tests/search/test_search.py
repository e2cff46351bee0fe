"""`recon search`: what it finds where it is known, and what becomes of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.search import SearchResult, SearchStage, TaskChoice
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.experiment.batches import Batch
from recon_cli.search.candidates import Candidates, branch_point, partition
from recon_cli.search.chain import find_chain
from recon_cli.search.conal_pro import conal_pro
from recon_cli.search.method import Found
from tests import networks
from tests.search import planted


@pytest.mark.parametrize("agree", [0, 1, 2])
@pytest.mark.parametrize("method", ["conal", "conal-pro"])
def test_tasks_part_where_their_conflicts_were_planted(recon, config, method, agree):
    path = config(**planted.config(agree))
    recon("search", path, "--method", method, "-o", "s.json", "-q").succeeds()
    found = SearchResult.read("s.json")
    assert found.branch_points == (agree + 1, agree + 1)
    for place, module in enumerate(found.modules):
        assert module.groups == ((("a", "b"),) if place < agree else (("a",), ("b",)))
        if (ratio := found.ratio(module.name)) is not None:
            assert ratio == (place >= agree)
    for stage in found.stages:
        for module in stage.conflicts:
            place = [module.name for module in found.modules].index(module.module)
            assert (module.pairs, module.zeroed) == (30, 30 * (place >= agree))
    # CoNAL-Pro goes backwards until both have stayed, or to the first module.
    assert len(found.stages) == (1 if method == "conal" else min(planted.MODULES, planted.MODULES - agree + 1))


def test_tasks_that_agree_everywhere_share_everything(recon, config):
    path = config(**planted.config(planted.MODULES))
    recon("search", path, "--method", "conal-pro", "-o", "s.json", "-q").succeeds()
    assert SearchResult.read("s.json").branch_points == (4, 4)
    save_state_dict(planted.network().state_dict(), Path("m.safetensors"))
    recon("split", "m.safetensors", "--search", "s.json", "-o", "b.safetensors").refuses("nothing to split")


def test_the_same_seed_finds_the_same(recon, config):
    path = config(validation={"target": "tests.networks:two_task_data"}, search={"iterations": 3})
    runs = []
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        recon("search", path, "--method", "conal", "--seed", seed, "-o", f"{name}.json", "-q").succeeds()
        runs.append(SearchResult.read(f"{name}.json").model_copy(update={"seconds": 0.0}))
    assert runs[0] == runs[1]
    assert runs[0].stages != runs[2].stages


def of_two_tasks() -> dict[str, object]:
    return {"validation": {"target": "tests.networks:two_task_data"}, "search": {"iterations": 8, "alpha_lr": 0.05}}


@pytest.mark.parametrize(
    ("method", "parts", "make"),
    [("conal", of_two_tasks(), networks.two_tasks), ("conal-pro", planted.config(1), planted.network)],
)
def test_a_search_is_split_verified_and_trained(recon, config, method, parts, make):
    retrained = {"method": {"name": "rlw", "parameters": {"distribution": "uniform"}}, "train": {"iterations": 2}}
    path, checkpoint = config(**parts, **retrained), Path("m.safetensors")
    torch.manual_seed(3)
    save_state_dict(make().state_dict(), checkpoint)
    recon("search", path, "--method", method, "-o", "s.json", "-q").succeeds()
    found = SearchResult.read("s.json")
    recon("split", checkpoint, "--search", "s.json", "-o", "b.safetensors", "-q").succeeds()
    recon("verify", "b.safetensors", "--source", checkpoint).succeeds()
    manifest = Manifest.read("b.manifest.json")
    assert (manifest.selection.policy, manifest.selection.argument) == ("search", method)
    assert manifest.selection.search_digest is not None
    groups = {layer.name: module.groups for module in found.modules for layer in module.layers}
    split = {layer.name: tuple(branch.tasks for branch in layer.branches) for layer in manifest.layers}
    assert split == {name: parts for name, parts in groups.items() if len(parts) > 1}
    assert split
    assert manifest.cost is not None
    recon("train", path, "--manifest", "b.manifest.json", "-o", "t", "-q").succeeds()


def test_groups_of_tasks_become_copies_that_they_share(recon, tmp_path):
    torch.manual_seed(0)
    model = planted.network("abc")
    save_state_dict(model.state_dict(), Path("m.safetensors"))
    found = searched(pro_with({2: "a", 1: "bc"}, "abc"), "abc")
    found.write("s.json")
    recon("split", "m.safetensors", "--search", "s.json", "-o", "b.safetensors", "-q").succeeds()
    recon("verify", "b.safetensors", "--source", "m.safetensors").succeeds()
    (layer,) = Manifest.read("b.manifest.json").layers
    assert layer.name == "trunk.2.linear"
    assert [branch.tasks for branch in layer.branches] == [("a",), ("b", "c")]


Groups = tuple[tuple[str, ...], ...]


@pytest.mark.parametrize(
    ("stays", "groups"),
    [
        # All stay with the last module.
        ({2: "abcd"}, ["abcd", "abcd", "abcd"]),
        # Two stay, the others form a group that stays with the module before.
        ({2: "ab", 1: "cd"}, ["abcd", "abcd", "ab cd"]),
        # A third group leaves once more.
        ({2: "a", 1: "b", 0: "cd"}, ["abcd", "ab cd", "a b cd"]),
        # None stays with the last module: to share another one would be the same again.
        ({1: "abcd"}, ["abcd", "abcd", "a b c d"]),
        # What was parted behind stays so, whichever groups there are before.
        ({1: "ab", 0: "cd"}, ["abcd", "ab cd", "a b c d"]),
        # Those that never stay have networks of their own.
        ({2: "ab"}, ["ab c d", "ab c d", "ab c d"]),
        ({}, ["a b c d", "a b c d", "a b c d"]),
    ],
)
def test_conal_pro_places_groups_from_the_last_module_backwards(stays, groups):
    found = pro_with(stays, "abcd")
    parts = [" ".join("".join(group) for group in partition(found.paths, place)) for place in range(3)]
    assert parts == groups


def pro_with(stays: Mapping[int, str], tasks: str) -> Found:
    """CoNAL-Pro where it is given which tasks stay with which module, counted from 0."""
    names = tuple(tasks)
    chain = find_chain(planted.network(tasks), names, Batch(torch.randn(4, 6), None))

    def learn(candidates: Candidates, looked_at: Sequence[int]) -> SearchStage:
        (place,) = looked_at
        # The candidates run, and all that has a choice may make it.
        assert candidates(torch.randn(4, 6)).keys() == set(names)
        for task, paths, alpha in zip(names, candidates.paths.values(), candidates.alphas, strict=True):
            assert {branch_point(path) for path in paths} == {place + 2, place + 1} or len(paths) == 1
            if len(paths) > 1:
                alpha.data[paths.index(next(p for p in paths if branch_point(p) == place + 1))] = 1.0
                if task in stays.get(place, ""):
                    alpha.data.neg_()
        points = (place + 2, place + 1)
        choices = tuple(
            TaskChoice(task=task, points=points, probabilities=(0.5, 0.5), chosen=place + 1) for task in names
        )
        return SearchStage(steps=1, choices=choices, conflicts=())

    return conal_pro(chain, names, learn)


def searched(found: Found, tasks: str) -> SearchResult:
    layers = [f"trunk.{place}.linear" for place in range(planted.MODULES)]
    return SearchResult.model_validate(
        {
            "method": "conal-pro", "tasks": tuple(tasks),
            "branch_points": tuple(map(branch_point, found.paths.values())),
            "modules": tuple(
                {"name": name, "layers": ({"name": name},), "parameters": 4, "groups": partition(found.paths, place)}
                for place, name in enumerate(layers)
            ),
            "stages": found.stages, "steps": 1, "seconds": 0.0, "seed": 0, "device": "cpu", "config_digest": "x",
            "checkpoint_digest": None, "versions": {"recon": "0"}, "flow": None,
        }
    )  # fmt: skip


def test_the_result_is_a_table_and_standard_output_takes_the_document(recon, config):
    path = config(**planted.config(1))
    shown = recon("search", path, "--method", "conal", "--iterations", 3, "-o", "s.json").succeeds()
    for words in ("trunk.1.linear", "negative cosines", "100.00%", "0.00%", "softmax(alpha) at the end"):
        assert words in shown.out
    piped = recon("search", path, "--method", "conal", "--iterations", 3, "-o", "-").succeeds()
    assert piped.document["schema"] == "recon.search/1"
    assert piped.document["steps"] == 3
    recon("search", path, "--method", "conal", "-o", "s.json").refuses("exists already")


def test_given_modules_and_lengths_in_epochs(recon, config):
    path = config(
        validation={"target": "tests.networks:two_task_data"}, search={"epochs": 2, "chain": ["body.0", "body.2"]}
    )
    recon("search", path, "--method", "conal", "-o", "s.json", "-q").succeeds()
    found = SearchResult.read("s.json")
    assert [module.name for module in found.modules] == ["body.0", "body.2"]
    # 40 items in batches of 8.
    assert found.steps == 10
    assert {layer.name for module in found.modules for layer in module.layers} == {"body.0", "body.2"}


def test_partial_labels_accumulation_and_half_precision(recon, config):
    tasks = [
        {"name": "left", "loss": "cross_entropy", "label": "left"},
        {"name": "right", "loss": "cross_entropy", "label": "right", "partial": True},
    ]
    path = config(
        tasks=tasks,
        data={"target": "tests.search.test_search:partly_labelled"},
        validation={"target": "tests.search.test_search:partly_labelled"},
        optimizer={"target": "SGD", "kwargs": {"lr": 0.05}, "accumulate": 2},
        precision="bfloat16",
        search={"iterations": 2},
    )
    recon("search", path, "--method", "conal", "-o", "s.json", "-q").succeeds()
    found = SearchResult.read("s.json")
    # In two of the four batches both tasks have a label.
    assert {module.pairs for module in found.stages[0].conflicts} == {2}


def partly_labelled() -> list[object]:
    x = torch.rand(8, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    label = torch.arange(8) % 3
    return [(x, {"left": label, "right": label}), (x, {"left": label})]


def no_chain() -> nn.Module:
    from tests.search.test_chain import Twice

    return Twice()


VALIDATION = {"target": "tests.networks:two_task_data"}


@pytest.mark.parametrize(
    ("parts", "options", "words"),
    [
        ({}, ["--method", "conal"], ["no section `validation`"]),
        (
            {"validation": VALIDATION},
            ["--method", "conall"],
            ["no method of searching `conall`", "did you mean `conal"],
        ),
        ({"validation": VALIDATION}, ["--method", "zzz"], ["there are `conal`, `conal-pro`"]),
        ({"validation": VALIDATION, "model": {"torchscript": "x.pt"}}, ["--method", "conal"], ["`model.target`"]),
        ({"validation": VALIDATION}, ["--method", "conal", "--epochs", "1", "--iterations", "1"], ["contradict"]),
        ({"validation": VALIDATION, "search": {"epochs": 1, "iterations": 1}}, ["--method", "conal"], ["contradict"]),
        ({"validation": VALIDATION, "search": {"chain": ["a", "a"]}}, ["--method", "conal"], ["stands there twice"]),
        ({"validation": VALIDATION, "search": {"chain": ["bodi"]}}, ["--method", "conal"], ["did you mean `body`?"]),
        (
            {"validation": {"target": "tests.networks:nothing"}, "search": {"iterations": 1}},
            ["--method", "conal"],
            ["validation.target `tests.networks:nothing` is empty"],
        ),
        (
            {"validation": VALIDATION, "tasks": [{"name": "left", "loss": "cross_entropy", "label": "left"}]},
            ["--method", "conal"],
            ["at least two"],
        ),
    ],
)
def test_wrong_input_is_a_clear_error(recon, config, parts, options, words):
    path = config(**parts)
    recon("search", path, "-o", "s.json", *options).refuses(*words)
    assert not Path("s.json").exists()


def test_a_loss_that_becomes_infinite_ends_the_search(recon, config):
    path = config(**planted.config(1, optimizer={"target": "SGD", "kwargs": {"lr": 1e6}}))
    recon("search", path, "--method", "conal", "--iterations", 60, "-o", "s.json").refuses("became", "learning rate")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--search", "s.json", "--top-k", "1"], "2 ways to choose"),
        (["--search", "s.json", "--seed", "1"], "--seed"),
        (["--search", "s.json", "--granularity", "module"], "--granularity"),
        (["--search", "s.json", "--tasks", "a,c"], "the search is of `a`, `b`"),
    ],
)
def test_a_search_that_is_split_in_a_wrong_way_is_refused(recon, options, words):
    save_state_dict(planted.network().state_dict(), Path("m.safetensors"))
    searched(pro_with({1: "ab"}, "ab"), "ab").write("s.json")
    recon("split", "m.safetensors", *options, "-o", "b.safetensors").refuses(words)


def broken(change: Callable[[dict], object]) -> dict:
    content = searched(pro_with({2: "a", 1: "b"}, "ab"), "ab").to_json()
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["modules"][0].update(groups=[["a"]]), "no partition"),
        (
            lambda c: c["modules"][0].update(groups=[["a"], ["b"]]) or c["modules"][2].update(groups=[["a", "b"]]),
            "join",
        ),
        (lambda c: c.update(branch_points=[1]), "one branch point"),
        (lambda c: c["modules"][1]["layers"].append({"name": "trunk.0.linear", "aliases": []}), "twice"),
        (lambda c: c["stages"][0]["choices"][0].update(chosen=9), "not one of its branch points"),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(change, words):
    from recon_cli.errors import ReconError

    with pytest.raises(ReconError, match=words):
        SearchResult.from_content(broken(change), "this")
