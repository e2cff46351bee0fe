"""What splits cost, as their networks' data flow tells, against what torch counts when the branched networks run."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import recon_cli
from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.manifest import Manifest, SplitLayer, SplitPlan
from recon_cli.branching.plan import plan_branching, split_per_task
from recon_cli.branching.runtime.module import BranchedModel
from recon_cli.branching.streams import count_flops
from recon_cli.dataflow.flops import FORMULAS
from recon_cli.errors import ReconError
from tests import networks
from tests.branching.catalogue import CATALOGUE
from tests.branching.test_engines import WHERE, chosen, shared_layers
from tests.branching.test_module import manifest_of
from tests.branching.test_random_networks import TASKS as RANDOM_TASKS
from tests.branching.test_random_networks import WIDTH, instructions
from tests.branching.test_random_networks import Network as RandomNetwork
from tests.conftest import read_ranking
from tests.experiment.programs import export


def counted(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    # Under a mode, as the branched network runs under one, layers take no shortcuts that are not counted.
    with torch.no_grad(), BaseTorchFunctionMode(), counter, warnings.catch_warnings():
        # Checkpointing has nothing to do without gradients, and says so.
        warnings.simplefilter("ignore")
        run()
    return int(counter.get_total_flops())


def run_branched(
    model: nn.Module, layers: Sequence[SplitLayer], tasks: tuple[str, ...], inputs: tuple[Any, ...]
) -> int:
    """The operations of a branched network that runs for the second time, when it knows which heads are needless."""
    plan = plan_branching(model.state_dict(keep_vars=True), layers, tasks)
    branched = BranchedModel(copy.deepcopy(model), plan, "calls")
    counted(lambda: branched(*inputs))
    return counted(lambda: branched(*inputs))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", CATALOGUE)
def test_the_cost_is_what_the_branched_network_computes(tmp_path, name, where):
    entry = CATALOGUE[name]
    torch.manual_seed(2)
    model, inputs = entry.make().double().eval(), entry.inputs()
    layers = chosen(shared_layers(copy.deepcopy(model), entry.tasks, inputs), where)
    manifest = manifest_of(model, layers, entry.tasks, tmp_path)
    cost = recon_cli.branching_cost(model, manifest, *inputs)
    assert cost.shared == counted(lambda: model(*inputs))
    assert cost.branched == run_branched(model, manifest.layers, entry.tasks, inputs)
    tied = {"embed", "decode"} if name == "tied embeddings" else {"first", "again"}
    for layer in manifest.layers:
        group = [other for other in manifest.layers if {layer.name, other.name} <= tied or other is layer]
        assert cost.by_layer[layer.name] == run_branched(model, group, entry.tasks, inputs)


def split(recon: Callable[..., Any], *options: object) -> Any:
    return recon("split", "model.safetensors", *options)


def test_a_split_says_what_it_costs_before_it_writes(recon, ranking, checkpoint):
    flow = read_ranking(ranking).flow
    result = split(recon, "--ranking", ranking, "--layers", "conv,body.2", "-o", "out.safetensors").succeeds()
    manifest = Manifest.read("out.manifest.json")
    cost = manifest.cost
    assert cost.shared == count_flops(flow, []) and cost.branched == count_flops(flow, manifest.layers) > cost.shared
    share, conv, body = cost.ratio - 1, cost.added_by("conv"), cost.added_by("body.2")
    assert 0 < body < conv == share
    before, _, _ = result.err.partition("note: writing")
    assert f"the split adds 82 parameters (0.00 MB) and {100 * share:.2f}% operations" in before
    assert f"alone, `conv` adds {100 * conv:.1f}%, `body.2` adds {100 * body:.1f}%" in before
    for line in (
        f"conv: +{100 * conv:.2f}% operations",
        f"body.2: +{100 * body:.2f}% operations",
        f"operations: {cost.ratio:.3f} times those of the shared network",
    ):
        assert line in result.out


def test_a_plan_hands_the_cost_on(recon, ranking, checkpoint):
    Path("plan.json").write_text(split(recon, "--ranking", ranking, "--top-k", 2, "--dry-run", "--json").out)
    plan = SplitPlan.read("plan.json")
    assert plan.cost is not None
    result = split(recon, "--plan", "plan.json", "-o", "out.safetensors").succeeds()
    assert Manifest.read("out.manifest.json").cost == plan.cost
    assert f"{100 * (plan.cost.ratio - 1):.2f}% operations" in result.err
    content = json.loads(Path("plan.json").read_text())
    content["cost"]["by_layer"] = {"other": 1}
    Path("plan.json").write_text(json.dumps(content))
    split(recon, "--plan", "plan.json", "-o", "again.safetensors").refuses("the cost is of other layers")


def test_documents_from_before_have_no_cost(recon, ranking, checkpoint):
    content = json.loads(split(recon, "--ranking", ranking, "--top-k", 2, "--dry-run", "--json").out)
    del content["cost"], content["selection"]["max_cost"], content["selection"]["left_out"]
    assert SplitPlan.from_content(content, "it").cost is None


def test_what_is_not_known_is_said_once_with_the_way_to_know_it(recon, checkpoint):
    result = split(recon, "--tasks", "left,right", "--layers", "conv", "-o", "out.safetensors").succeeds()
    assert result.err.count("operations is not known") == result.err.count("--ranking") == 1
    assert Manifest.read("out.manifest.json").cost is None and "operations" not in result.out
    limited = ("--tasks", "left,right", "--layers", "conv", "--max-cost", "1.5", "--dry-run")
    split(recon, *limited).refuses("--max-cost 1.5", "not known", "--ranking")


def test_a_limit_refuses_or_leaves_out_and_is_recorded(recon, ranking, checkpoint):
    names = ",".join(layer.name for layer in read_ranking(ranking).layers)
    chosen = ("--ranking", ranking, "--layers", names, "-o", "out.safetensors")
    ratio = SplitPlan.from_content(split(recon, *chosen[:4], "--dry-run", "--json").document, "it").cost.ratio
    # All but the heads, which run once for their own task.
    conv, body, head = 8 * 25 * 4 * 9, 8 * 6 * 4 + 8 * 6 * 6, 8 * 6 * 3
    assert ratio == (conv + body) / (conv + body + 2 * head) + 1
    split(recon, *chosen, "--max-cost", 1.2).refuses(
        f"{ratio:.3f} times", "--max-cost 1.2", f"`conv` adds {100 * (ratio - 1):.1f}%", "--drop"
    )
    assert not Path("out.safetensors").exists()
    result = split(recon, *chosen, "--max-cost", 1.2, "--drop").succeeds()
    manifest = Manifest.read("out.manifest.json")
    assert 1 < manifest.cost.ratio <= 1.2 and manifest.selection.max_cost == 1.2
    kept = [layer.name for layer in manifest.layers]
    assert sorted((*kept, *manifest.selection.left_out)) == sorted(names.split(","))
    assert "conv" in manifest.selection.left_out and kept
    assert all(f"`{name}`" in result.err for name in manifest.selection.left_out)
    assert result.err.count("left out, to stay within 1.2 times the operations") == 1
    recon("verify", "out.safetensors", "--source", "model.safetensors").succeeds()


def test_what_is_left_out_is_what_does_not_fit_down_the_ranking(recon, ranking, checkpoint):
    found = read_ranking(ranking)
    names = [layer.name for layer in found.layers]
    for limit in (1.0, 1.05, 1.1, 1.5, 1.9, 2.0):
        kept: list[str] = []
        for name in names:
            layers = [SplitLayer(name=each, branches=_branches()) for each in (*kept, name)]
            if count_flops(found.flow, layers) <= limit * count_flops(found.flow, []):
                kept.append(name)
        # The order in which they are named does not matter.
        asked = ("--ranking", ranking, "--layers", ",".join(sorted(names)), "--dry-run", "--json")
        result = split(recon, *asked, "--max-cost", limit, "--drop")
        if not kept:
            result.refuses("each of the chosen layers alone")
            continue
        assert {layer["name"] for layer in result.document["layers"]} == set(kept)
        assert result.document["cost"]["branched"] <= limit * result.document["cost"]["shared"]


def _branches() -> Any:
    return SplitLayer.model_validate_json(
        '{"name": "x", "branches": [{"id": "left", "tasks": ["left"]}, {"id": "right", "tasks": ["right"]}]}'
    ).branches


def test_modules_are_left_out_as_a_whole(recon, ranking, checkpoint):
    options = ("--ranking", ranking, "--granularity", "module", "--top-k", 3, "--max-cost", 1.4, "--drop")
    result = split(recon, *options, "--dry-run", "--json").succeeds()
    left_out = result.document["selection"]["left_out"]
    assert "conv" in left_out
    assert {"body.0", "body.2"} & set(left_out) in (set(), {"body.0", "body.2"})


def test_layers_that_are_tied_stay_together(recon, tmp_path):
    model = networks.Tied()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    (tmp_path / "words.py").write_text(
        "import torch\ndef data():\n    t = torch.arange(8) % 5\n    return [(t, (t.roll(1), t % 2))]\n"
    )
    tasks = [{"name": name, "loss": "cross_entropy", "label": at} for at, name in enumerate(("word", "kind"))]
    config = {
        "model": {"target": "tests.networks:Tied"}, "data": {"target": "words:data"}, "tasks": tasks, "device": "cpu",
        "optimizer": {"target": "SGD", "kwargs": {"lr": 0.1}}, "profile": {"iterations": 2},
    }  # fmt: skip
    (tmp_path / "recon.yaml").write_text(json.dumps(config))
    recon("profile", "recon.yaml", "-o", "scores.json").succeeds()
    recon("rank", "scores.json", "-S", 0, "-o", "ranking.json").succeeds()
    content = json.loads(Path("ranking.json").read_text())
    for layer in content["layers"]:
        layer["aliases"] = []
        layer["parameters"] = None
    content["unranked"] = None
    Path("ranking.json").write_text(json.dumps(content))
    asked = ("split", "model.pt", "--ranking", "ranking.json", "--layers", "embed,mix,decode", "--dry-run", "--json")
    full = recon(*asked).succeeds().document["cost"]
    assert full["by_layer"]["embed"] == full["by_layer"]["decode"] > full["shared"]
    for limit in (1.2, 1.3, 1.4, 1.9):
        result = recon(*asked, "--max-cost", limit, "--drop")
        if result.code == 0:
            kept = {layer["name"] for layer in result.document["layers"]}
            assert kept & {"embed", "decode"} in ({"embed", "decode"}, set())


@pytest.mark.parametrize("value", ["0.9", "nan", "inf", "-inf", "text", "", "1,3", "130%"])
def test_a_limit_that_is_none_is_refused(recon, ranking, checkpoint, value):
    split(recon, "--ranking", ranking, "--top-k", 2, "--dry-run", f"--max-cost={value}").refuses("--max-cost", "1.3")


def test_options_that_do_not_fit_are_refused(recon, ranking, checkpoint):
    split(recon, "--ranking", ranking, "--top-k", 2, "--dry-run", "--drop").refuses("--drop", "--max-cost")
    Path("plan.json").write_text(split(recon, "--ranking", ranking, "--top-k", 2, "--dry-run", "--json").out)
    split(recon, "--plan", "plan.json", "--max-cost", 1.5, "--dry-run").refuses("--plan", "--max-cost")


@pytest.mark.parametrize("output", ["out.pt2", "out.safetensors"])
def test_a_program_tells_its_cost_itself(recon, tmp_path, output):
    model = networks.two_tasks().eval()
    export(model, (torch.rand(4, 1, 5, 5),), tmp_path / "net.pt2")
    asked = ("split", "net.pt2", "--tasks", "left,right", "--layers", "conv,body.0", "-o", output)
    recon(*asked, "--allow-exported", "--max-cost", 1.5).refuses("1.964 times")
    result = recon(*asked, "--allow-exported").succeeds()
    cost = Manifest.read("out.manifest.json").cost
    assert cost == recon_cli.branching_cost(model, "out.manifest.json", torch.rand(4, 1, 5, 5))
    assert "not known" not in result.err
    if output == "out.safetensors":
        assert "not known" in recon(*asked, "--force").succeeds().err


@settings(max_examples=60, deadline=None)
@given(
    program=st.lists(instructions, min_size=1, max_size=9),
    heads=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    layers=st.sets(st.sampled_from(["layers.0", "layers.1", "norms.0", "scale"]), min_size=1),
    training=st.booleans(),
)
def test_the_streams_of_networks_put_together_at_random_part_where_the_data_flow_says(program, heads, layers, training):
    torch.manual_seed(6)
    model = RandomNetwork(program, heads).double().train(training)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    split = [split_per_task(name, (), RANDOM_TASKS) for name in sorted(layers)]
    flow = recon_cli.dataflow_of(model, RANDOM_TASKS, x)
    # A run that has learned nothing yet computes the heads of all tasks in every pass.
    operations = [each.model_copy(update={"tasks": (0, 1, 2)}) for each in flow.operations]
    plan = plan_branching(model.state_dict(), split, RANDOM_TASKS)
    branched = BranchedModel(copy.deepcopy(model), plan, "calls")
    try:
        found = counted(lambda: branched(x))
    except ReconError:
        # A task writes into what others read.
        assume(False)
    assert count_flops(Dataflow(tasks=RANDOM_TASKS, operations=tuple(operations)), split) == found
