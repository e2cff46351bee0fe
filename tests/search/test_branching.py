"""BMTAS and LTB: what they find where it is known, and what they refuse."""

from __future__ import annotations

import json

import pytest

from recon_cli.artifacts.search import SearchResult
from recon_cli.config.schema import SearchSection
from recon_cli.errors import ReconError
from recon_cli.search.branching import paths_of
from recon_cli.search.candidates import branch_point, partition
from recon_cli.search.gumbel import linear
from recon_cli.search.sampled import SampledByParent
from recon_cli.search.sampled_stage import Sampling
from tests.search import camps

METHODS = pytest.mark.parametrize("method", ["bmtas", "ltb"])
ALL = (tuple(camps.TASKS),)


@pytest.fixture
def find(recon, config):
    """Search what parts two camps, and read what was found."""

    def run(method: str, agree: int = 1, seed: int = 0, iterations: int = 60, **sampling: float) -> SearchResult:
        search = {"iterations": iterations, "alpha_lr": 0.2, "sampling": sampling}
        path = config(**camps.config(agree, search, seed=seed))
        recon("search", path, "--method", method, "-o", "search.json", "--force", "-q").succeeds()
        return SearchResult.read("search.json")

    return run


@METHODS
@pytest.mark.parametrize("agree", [1, 2])
def test_camps_part_at_the_module_from_which_they_conflict(find, method, agree):
    found = find(method, agree, resource_weight=0.1)
    assert [module.groups for module in found.modules] == [ALL] * agree + [camps.CAMPS] * (3 - agree)
    assert found.branch_points == (agree + 1,) * 4
    assert found.method == method
    resource = found.stages[0].resource
    assert resource.unit == "operations"
    # Of each module: a batch of 16, and a matrix of 2 x 2.
    assert resource.shared == 3 * 2 * 16 * 4
    assert resource.expected == pytest.approx(resource.shared * (6 - agree) / 3, rel=0.1)
    together = found.stages[0].sampled[-1].together
    assert together[0][2] > 0.9
    assert together[0][1] < 0.1


@METHODS
def test_where_resources_weigh_most_all_is_shared(find, method):
    found = find(method, resource_weight=10.0)
    assert [module.groups for module in found.modules] == [ALL] * 3
    assert found.branch_points == (4,) * 4
    assert found.stages[0].resource.expected == pytest.approx(found.stages[0].resource.shared, rel=0.05)


def test_a_higher_weight_shares_more(find):
    free, weighed = (find("bmtas", resource_weight=weight).stages[0].resource for weight in (0.0, 0.1))
    assert weighed.expected < free.expected


@METHODS
def test_the_seed_decides(find, method):
    first, again, other = (find(method, seed=seed, iterations=5) for seed in (1, 1, 2))
    assert first.stages == again.stages
    assert first.stages != other.stages


def test_methods_have_their_own_weight_of_resources(find):
    weights = {method: find(method, iterations=2).stages[0].resource.weight for method in ("bmtas", "ltb")}
    assert weights == {"bmtas": 0.1, "ltb": 0.0}


def test_ltb_needs_no_validation_data(recon, config):
    parts = camps.config(1, {"iterations": 2}, validation=None)
    recon("search", config(**parts), "--method", "ltb", "-o", "search.json").succeeds()
    recon("search", config(**parts), "--method", "bmtas", "-o", "other.json").refuses("section `validation`")


def test_what_is_found_is_shown(recon, config):
    path = config(**camps.config(1, {"iterations": 2}))
    shown = recon("search", path, "--method", "ltb", "-o", "search.json").succeeds()
    for words in ("copy 4", "trunk.2", "expected of a branching that is drawn"):
        assert words in shown.out + shown.err
    assert "negative cosines" not in shown.out + shown.err
    inspected = recon("inspect", "search.json").succeeds().out
    for words in ("ltb", "operations of the modules", "384 if all tasks share them"):
        assert words in inspected


@pytest.mark.parametrize("method", ["conal", "conal-pro"])
def test_sampling_is_refused_where_nothing_is_drawn(recon, config, method):
    path = config(**camps.config(1, {"iterations": 2, "sampling": {"warm_up": 0.1}}))
    recon("search", path, "--method", method, "-o", "search.json").refuses("search.sampling", method, "bmtas")


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"temperature_end": 6.0}, "temperature would rise, from 5 to 6"),
        ({"temperature_start": 0.05}, "temperature would rise, from 0.05 to 0.1"),
        ({"temperature_start": 0.0}, "temperature_start"),
        ({"warm_up": 1.0}, "warm_up"),
        ({"resource_weight": -1.0}, "resource_weight"),
        ({"tau": 1.0}, "tau"),
    ],
)
def test_wrong_sampling_is_refused(recon, config, sampling, words):
    path = config(**camps.config(1, {"iterations": 2, "sampling": sampling}))
    recon("search", path, "--method", "bmtas", "-o", "search.json").refuses(words)


def test_too_many_tasks_for_the_resource_loss_are_refused(recon, config, monkeypatch):
    monkeypatch.setattr(SampledByParent, "most_tasks", 3)
    weighed = config(**camps.config(1, {"iterations": 2, "sampling": {"resource_weight": 1.0}}))
    recon("search", weighed, "--method", "ltb", "-o", "search.json").refuses("up to 3 tasks", "resource_weight: 0")
    free = config(**camps.config(1, {"iterations": 2}))
    recon("search", free, "--method", "ltb", "-o", "search.json").succeeds()
    assert SearchResult.read("search.json").stages[0].resource.expected is None


def test_temperatures_of_the_steps():
    sampling = Sampling(
        in_turn=True, alpha_lr=0.1, alpha_decay=0, annealing=linear, first=5, last=1, warm_up=0.2, resource_weight=0
    )
    given = sampling.given(SearchSection.model_validate({"sampling": {"temperature_end": 2.0}}))
    temperatures = [given.temperature(step, 10) for step in range(10)]
    assert temperatures[:3] == [None, None, 5]
    assert temperatures[-1] == 2
    assert temperatures[2:] == sorted(temperatures[2:], reverse=True)
    # A stage of one step learns at the first temperature.
    assert given.temperature(0, 1) == 5
    with pytest.raises(ReconError, match="rise"):
        sampling.given(SearchSection.model_validate({"sampling": {"temperature_end": 6.0}}))


def test_paths_follow_the_tree():
    paths = paths_of({"a": (0, 0, 2), "b": (0, 1, 2), "c": (0, 0, 2)})
    assert [partition(paths, place) for place in range(3)] == [
        (("a", "b", "c"),),
        (("a", "c"), ("b",)),
        (("a", "c"), ("b",)),
    ]
    assert [branch_point(path) for path in paths.values()] == [2, 2, 2]


@METHODS
def test_a_document_is_read_as_it_was_written(find, method):
    found = find(method, iterations=2)
    again = SearchResult.model_validate_json(json.dumps({k: v for k, v in found.to_json().items() if k != "schema"}))
    assert again == found


def spoilt_stages() -> list[object]:
    def without(*names):
        return lambda stage: {name: value for name, value in stage.items() if name not in names}

    def module(change):
        return lambda stage: {**stage, "sampled": [change(dict(each)) for each in stage["sampled"]]}

    return [
        pytest.param(without("sampled"), "between branch points or between copies", id="no choices"),
        pytest.param(without("resource"), "has a resource", id="no resource"),
        pytest.param(module(lambda m: {**m, "chosen": m["chosen"][1:]}), "not every reader", id="reader"),
        pytest.param(module(lambda m: {**m, "chosen": [9] * 4}), "not of its copies", id="copy"),
        pytest.param(module(lambda m: {**m, "together": m["together"][1:]}), "not every pair", id="pair"),
        pytest.param(module(lambda m: {**m, "module": "x"}), "not those of the modules", id="module"),
        pytest.param(
            module(lambda m: {**m, "together": [row[:3] for row in m["together"][:3]]}), "of other tasks", id="tasks"
        ),
    ]


@pytest.mark.parametrize(("change", "words"), spoilt_stages())
def test_a_document_that_contradicts_itself_is_refused(find, recon, tmp_path, change, words):
    content = find("bmtas", iterations=2).to_json()
    content["stages"] = [change(stage) for stage in content["stages"]]
    (tmp_path / "spoilt.json").write_text(json.dumps(content))
    recon("inspect", "spoilt.json").refuses(words)
