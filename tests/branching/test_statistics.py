"""Running statistics that every stream has its own of, in plans, files and reports."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import recon_cli
from recon_cli.artifacts.dataflow import Dataflow, Operation
from recon_cli.artifacts.manifest import Branch, Manifest, SplitLayer, SplitPlan, SplitStatistics
from recon_cli.artifacts.ranking import Ranking
from recon_cli.branching.order import in_module_order
from recon_cli.branching.plan import plan_branching, split_per_task
from recon_cli.branching.requests import PlanRequest, SelectionRequest, SplitRequest
from recon_cli.branching.split import SplitResult, plan_split, split_checkpoint
from recon_cli.branching.statistics import own_statistics
from recon_cli.branching.verify import verify
from recon_cli.errors import ReconError
from recon_cli.reporting.split import split_remarks, split_view
from tests import networks

TASKS = ("left", "right")
MOVED = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")


def operation(inputs: tuple[int, ...], *reads: str, moves: tuple[str, ...] = (), tasks: tuple[int, ...] = (0, 1)):
    return Operation(flops=1, inputs=inputs, reads=reads, moves=moves, tasks=tasks)


FLOW = Dataflow(
    tasks=TASKS,
    operations=(
        operation((), "conv.weight", "conv.bias"),
        operation((), moves=MOVED[2:], tasks=()),
        operation((0,), "norm.weight", "norm.bias", moves=MOVED[:2]),
        operation((2,), "body.0.weight", "body.0.bias"),
        operation((3,), "body.2.weight", "body.2.bias"),
        operation((4,), "heads.left.weight", "heads.left.bias", tasks=(0,)),
        operation((4,), "heads.right.weight", "heads.right.bias", tasks=(1,)),
    ),
)
"""That of the small network of these tests."""


def request(checkpoint: Path, *layers: str, **given: object) -> SplitRequest:
    return replace(SplitRequest(checkpoint, SelectionRequest(layers=layers), ranking(), TASKS), **given)


def ranking() -> Ranking:
    """A ranking that holds the data flow."""
    plain = Ranking.from_content({"conv": 4.0, "norm": 3.0, "body.0": 2.0, "body.2": 1.0}, "the ranking")
    return plain.model_copy(update={"tasks": TASKS, "flow": FLOW})


def told(result: SplitResult) -> str:
    return "\n".join(str(part) for part in (*split_view(result), *split_remarks(result)))


def test_statistics_behind_a_split_are_split_and_those_before_it_kept():
    keys = list(networks.two_tasks().state_dict())
    (found,) = own_statistics(FLOW, [split_per_task("conv", (), TASKS)], keys)
    own = tuple(Branch(id=task, tasks=(task,)) for task in TASKS)
    assert found == SplitStatistics(name="norm", branches=own, buffers=MOVED)
    assert own_statistics(FLOW, [split_per_task("body.0", (), TASKS)], keys) == ()


def test_tasks_in_one_stream_have_statistics_together_named_after_the_first():
    tasks = ("a", "2nd", "c")
    flow = FLOW.model_copy(update={"tasks": tasks, "operations": FLOW.operations[:5]})
    operations = tuple(each.model_copy(update={"tasks": (0, 1, 2)}) for each in flow.operations)
    branches = (Branch(id="x", tasks=("a",)), Branch(id="y", tasks=("2nd", "c")))
    layer = SplitLayer(name="conv", branches=branches)
    (found,) = own_statistics(flow.model_copy(update={"operations": operations}), [layer], MOVED)
    assert found.branches == (Branch(id="a", tasks=("a",)), Branch(id="t2nd", tasks=("2nd", "c")))
    plan = plan_branching(["conv.weight", "norm.weight", *MOVED], [layer], tasks, statistics=[found])
    assert plan.places["norm.weight"] == ("norm.weight",)
    assert plan.places["norm.running_var"] == ("norm.running_var.tasks.a", "norm.running_var.tasks.t2nd")
    assert plan.place("norm.running_var", "c") == "norm.running_var.tasks.t2nd"


def test_all_names_of_a_tied_buffer_are_split():
    keys = ["first.weight", "norm.running_mean", "again.running_mean"]
    operations = (operation((), "first.weight"), operation((0,), moves=("norm.running_mean",)))
    flow = Dataflow(tasks=TASKS, operations=operations)
    ties = {"again.running_mean": "norm.running_mean"}
    (found,) = own_statistics(flow, [split_per_task("first", (), TASKS)], keys, ties)
    assert found.buffers == ("norm.running_mean", "again.running_mean")


@pytest.mark.parametrize("name", ["b.safetensors", "b.pt"])
def test_a_split_writes_them_and_everything_that_reads_it_knows_them(recon, checkpoint, name):
    result = split_checkpoint(request(checkpoint, "conv"), Path(name), overwrite=False)
    assert "running statistics of 1 other layer for every stream: `norm`" in told(result)
    assert result.decision.sizes.after.tensors == result.decision.sizes.before.tensors + 2 + 3
    assert result.decision.sizes.split_parameters == 40
    state = load_file(checkpoint)
    branched = load_file(name) if name.endswith("rs") else torch.load(name, weights_only=True)
    split = {key for key in state if key.startswith("conv.")} | set(MOVED)
    expected = {key: value for key, value in state.items() if key not in split}
    for task in TASKS:
        expected |= {f"conv.tasks.{task}.{part}": state[f"conv.{part}"] for part in ("weight", "bias")}
        expected |= {f"{key}.tasks.{task}": state[key] for key in MOVED}
    assert branched.keys() == expected.keys()
    assert all(torch.equal(branched[key], value) for key, value in expected.items())
    manifest = Manifest.read(Path("b.manifest.json"))
    assert manifest.batchnorm == "per-stream"
    assert [each.name for each in manifest.statistics] == ["norm"]
    recon("verify", name, "--source", checkpoint).succeeds()
    assert "a set for every stream" in recon("inspect", "b.manifest.json").succeeds().out
    assert "running statistics for every stream:\n  norm\n" in recon("inspect", name).succeeds().out


def test_what_was_trained_is_extracted_united_and_verified(recon, checkpoint):
    split_checkpoint(request(checkpoint, "conv"), Path("b.safetensors"), overwrite=False)
    trained = load_file("b.safetensors")
    trained["norm.running_mean.tasks.left"] = torch.full((4,), 1.0)
    trained["norm.running_mean.tasks.right"] = torch.full((4,), 4.0)
    trained["norm.num_batches_tracked.tasks.right"] = torch.tensor(9)
    torch.save(trained, "t.pt")
    with_manifest = ["t.pt", "--manifest", "b.manifest.json"]
    out = recon("extract", *with_manifest, "--task", "right", "-o", "right.pt").succeeds().out
    assert "5 tensors of 2 layers are those of task right" in out
    state = torch.load("right.pt", weights_only=True)
    assert state.keys() == networks.two_tasks().state_dict().keys()
    assert state["norm.running_mean"].tolist() == [4.0] * 4 and state["norm.num_batches_tracked"] == 9
    recon("unsplit", *with_manifest, "-o", "u.pt").refuses("the branches of 1 layer of `t.pt` differ: `norm`")
    recon("unsplit", *with_manifest, "--average", "-o", "u.pt").succeeds()
    state = torch.load("u.pt", weights_only=True)
    assert state["norm.running_mean"].tolist() == [2.5] * 4 and state["norm.num_batches_tracked"] == 9
    assert not verify(Path("t.pt"), checkpoint, Path("b.manifest.json")).passed
    manifest = Manifest.read(Path("b.manifest.json"))
    other = manifest.statistics[0].model_copy(update={"buffers": MOVED[:2]})
    manifest.model_copy(update={"statistics": (other,)}).write(Path("m.json"))
    problems = verify(Path("b.safetensors"), checkpoint, Path("m.json")).problems
    assert any("`norm.num_batches_tracked` is not where the split" in problem for problem in problems)


def test_a_plan_carries_them(recon, checkpoint):
    document = plan_split(request(checkpoint, "conv")).document
    assert isinstance(document, SplitPlan) and document.batchnorm == "per-stream"
    document.write(Path("plan.json"))
    assert "a set for every stream" in recon("inspect", "plan.json").succeeds().out
    split_checkpoint(request(checkpoint, "conv"), Path("direct.safetensors"), overwrite=False)
    planned = PlanRequest(checkpoint, SplitPlan.read(Path("plan.json")), Path("plan.json"))
    split_checkpoint(planned, Path("planned.safetensors"), overwrite=False)
    assert Path("planned.safetensors").read_bytes() == Path("direct.safetensors").read_bytes()


def test_they_are_shared_where_that_is_asked_for_or_nothing_is_known(recon, checkpoint):
    asked = split_checkpoint(request(checkpoint, "conv", batchnorm="shared"), Path("a.safetensors"), overwrite=False)
    assert Manifest.read(Path("a.manifest.json")).batchnorm == "shared"
    assert "statistics" not in told(asked)
    split = ["split", checkpoint, "--layers", "conv", "--tasks", "left,right"]
    err = recon(*split, "-o", "u.safetensors").succeeds().err
    assert "the running statistics of 1 unsplit layer stay shared (`norm`)" in err and "--ranking" in err
    assert Manifest.read(Path("u.manifest.json")).batchnorm == "unknown"
    assert load_file("u.safetensors").keys() == load_file("a.safetensors").keys()
    err = recon(*split, "-o", "s.safetensors", "--batchnorm", "shared").succeeds().err
    assert "statistics" not in err
    err = recon("split", checkpoint, "--layers", "norm", "--tasks", "left,right", "--dry-run").succeeds().err
    assert "statistics" not in err


def test_what_cannot_be_is_refused(recon, checkpoint):
    split = ["split", checkpoint, "--layers", "conv", "--tasks", "left,right", "-o", "b.safetensors"]
    recon(*split, "--batchnorm", "per-stream").refuses("it is not known which running statistics lie behind", "profile")
    assert recon(*split, "--batchnorm", "often").code == 2
    Path("p.json").write_text(recon(*split[:-2], "--dry-run", "--json").succeeds().out)
    recon("split", checkpoint, "--plan", "p.json", "--batchnorm", "shared").refuses(
        "--plan is given beside --batchnorm"
    )
    layers = [split_per_task("norm", (), TASKS)]
    statistics = [SplitStatistics(name="norm", branches=layers[0].branches, buffers=MOVED)]
    with pytest.raises(ReconError, match="the layer `norm` is to be split twice"):
        plan_branching(MOVED, layers, TASKS, statistics=statistics)
    with pytest.raises(ReconError, match="no buffer `norm.running_mean`"):
        plan_branching(
            ["conv.weight", "norm.weight"], [split_per_task("conv", (), TASKS)], TASKS, statistics=statistics
        )


def test_documents_have_to_be_consistent(checkpoint):
    document = plan_split(request(checkpoint, "conv")).document.to_json()
    for change in (
        {"batchnorm": "shared"},
        {"statistics": None},
        {"statistics": [{**document["statistics"][0], "branches": document["statistics"][0]["branches"][:1]}]},
    ):
        with pytest.raises(ReconError, match="not a valid"):
            SplitPlan.from_content(json.loads(json.dumps({**document, **change})), "it")


def test_manifests_of_before_are_read(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv", "--tasks", "left,right", "-o", "b.safetensors").succeeds()
    content = json.loads(Path("b.manifest.json").read_text())
    del content["statistics"]
    content["batchnorm"] = "shared"
    manifest = Manifest.from_content(content, "it")
    assert manifest.statistics is None
    model = recon_cli.branch(networks.two_tasks(), manifest)
    assert "norm.running_mean" in model.state_dict()


class Scattered(nn.Module):
    """Norms without parameters, a buffer between others, and one at the root."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.plain = nn.BatchNorm1d(4, affine=False)
        self.mixed = nn.Module()
        for name in ("fixed", "moved", "also_fixed"):
            self.mixed.register_buffer(name, torch.zeros(()))
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("limit", torch.zeros(()))
        self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.plain(self.first(x))
        return {task: head(x) for task, head in self.heads.items()}


def test_the_branched_module_lists_them_in_the_order_of_the_plan():
    own = tuple(Branch(id=task, tasks=(task,)) for task in TASKS)
    moved = {"plain": ["running_mean", "running_var"], "mixed": ["moved"], "total": []}
    statistics = [
        SplitStatistics(name=name, branches=own, buffers=tuple(f"{name}.{part}" for part in parts) or (name,))
        for name, parts in moved.items()
    ]
    model = Scattered()
    layers = [split_per_task("first", (), TASKS)]
    plan = plan_branching(model.state_dict(), layers, TASKS, statistics=statistics)
    branched = recon_cli.BranchedModel(copy.deepcopy(model), plan)
    assert list(branched.state_dict()) == [name for name, _ in in_module_order(plan)]


def test_the_ranking_of_a_profile_knows_which_statistics_lie_behind_a_split(recon, ranking, checkpoint):
    split = ["split", checkpoint, "--ranking", ranking, "--layers"]
    result = recon(*split, "conv", "-o", "b.safetensors").succeeds()
    assert "running statistics of 1 other layer for every stream: `norm`" in result.out
    assert "stay shared" not in result.err
    branched = recon_cli.branch(networks.two_tasks(), "b.safetensors").train()
    branched.load_state_dict(load_file("b.safetensors"))
    with torch.no_grad():
        branched.get_parameter("conv.tasks.right.weight").mul_(2)
        branched(torch.rand(4, 1, 5, 5))
    state = branched.state_dict()
    assert state["norm.num_batches_tracked.tasks.left"] == 1
    assert not torch.equal(state["norm.running_mean.tasks.left"], state["norm.running_mean.tasks.right"])
    assert "running statistics" not in recon(*split, "body.0", "--dry-run").succeeds().out
    shared = recon(*split, "conv", "--batchnorm", "shared", "--dry-run").succeeds()
    assert "running statistics" not in shared.out + shared.err


def test_statistics_of_streams_are_counted_among_the_buffers(recon, checkpoint):
    split_checkpoint(request(checkpoint, "conv"), Path("b.safetensors"), overwrite=False)
    after = Manifest.read(Path("b.manifest.json")).sizes.after
    found = recon("inspect", "b.safetensors", "--json").succeeds().document["checkpoint"]["state_dicts"]
    assert [each["parameters"] for each in found] == [after.parameters]
