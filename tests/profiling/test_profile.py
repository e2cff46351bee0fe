"""`recon profile` from a config to a scores file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recon_cli.artifacts.digests import digest_file
from tests import networks
from tests.conftest import read_scores

TASKS = [
    {"name": "left", "loss": "cross_entropy", "label": "left"},
    {"name": "right", "loss": "cross_entropy", "label": "right"},
]


def test_the_same_seed_gives_the_same_file(recon, config):
    for name, seed in (("one", 4), ("two", 4), ("three", 5)):
        recon("profile", config(), "-o", f"{name}.json", "--seed", seed).succeeds()
    one, two, three = (Path(f"{name}.json").read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert json.loads(one)["layers"] != json.loads(three)["layers"]


def test_a_scores_file_says_what_was_measured(recon, config, checkpoint):
    path = config()
    recon("profile", path, "-o", "s.json", "--checkpoint", checkpoint, "--iterations", 7).succeeds()
    scores = read_scores(Path("s.json"))
    assert scores.tasks == ("left", "right")
    assert (scores.iterations, scores.iterations_requested, scores.complete) == (7, 7, True)
    assert scores.stage_iterations == (2, 2, 2, 1)
    assert scores.config_digest == digest_file(path)
    assert scores.checkpoint_digest == digest_file(checkpoint)
    assert scores.device == "cpu"
    conv = scores.layers[0]
    assert (conv.name, conv.type, conv.parameters, conv.size, conv.bytes) == (
        "conv", "Conv2d", ("conv.weight", "conv.bias"), 40, 160,
    )  # fmt: skip
    assert sum(stage.pairs for stage in conv.stages) == 7
    assert [(layer.name, layer.reason, layer.tasks) for layer in scores.unranked] == [
        ("heads.left", "private", ("left",)),
        ("heads.right", "private", ("right",)),
    ]


def test_starting_weights_change_what_is_measured(recon, config, checkpoint):
    recon("profile", config(), "-o", "fresh.json").succeeds()
    recon("profile", config(), "-o", "given.json", "--checkpoint", checkpoint).succeeds()
    model = {"target": "tests.networks:two_tasks", "checkpoint": checkpoint.name}
    recon("profile", config(model=model), "-o", "configured.json").succeeds()
    fresh, given, configured = (json.loads(Path(f"{n}.json").read_text()) for n in ("fresh", "given", "configured"))
    assert fresh["layers"] != given["layers"]
    assert given["layers"] == configured["layers"]


def test_training_moves_the_weights_with_every_iteration(recon, config):
    recon("profile", config(), "-o", "still.json").succeeds()
    still = {"target": "SGD", "kwargs": {"lr": 0.0}}
    recon("profile", config(optimizer=still), "-o", "moving.json").succeeds()
    assert json.loads(Path("still.json").read_text())["layers"] != json.loads(Path("moving.json").read_text())["layers"]


@pytest.mark.parametrize("network", ["Tuple", "WithAttributes"])
def test_outputs_may_have_any_of_the_usual_forms(recon, config, network):
    recon("profile", config(), "-o", "mapping.json").succeeds()
    recon("profile", config(model={"target": f"tests.networks:{network}"}), "-o", "other.json").succeeds()
    mapping, other = (json.loads(Path(f"{name}.json").read_text()) for name in ("mapping", "other"))
    assert mapping["layers"] == other["layers"]


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        ({"target": "tests.networks:list_of_mappings", "inputs": "image"}, ("left", "right")),
        ({"target": "tests.networks:list_of_tables"}, (0, 1)),
        ({"target": "tests.networks:list_of_tables"}, (-2, -1)),
        ({"target": "tests.networks:list_of_triples"}, (0, 1)),
    ],
)
def test_batches_may_have_any_of_the_usual_forms(recon, config, data, labels):
    def tasks(values):
        return [{**task, "label": label} for task, label in zip(TASKS, values, strict=True)]

    recon("profile", config(data=data, tasks=tasks(labels)), "-o", "some.json").succeeds()
    mappings = {"target": "tests.networks:list_of_mappings", "inputs": "image"}
    recon("profile", config(data=mappings, tasks=tasks(("left", "right"))), "-o", "expected.json").succeeds()
    some, expected = (json.loads(Path(f"{name}.json").read_text()) for name in ("some", "expected"))
    assert some["layers"] == expected["layers"]


def test_frozen_unused_and_excluded_layers_are_not_ranked(recon, config):
    profile = {"iterations": 2, "exclude": ["body.2"]}
    recon("profile", config(model={"target": "tests.networks:Frozen"}, profile=profile), "-o", "s.json").succeeds()
    scores = read_scores(Path("s.json"))
    assert [layer.name for layer in scores.layers] == ["norm", "body.0"]
    reasons = {layer.name: layer.reason for layer in scores.unranked}
    assert reasons == {
        "conv": "frozen", "body.2": "excluded", "heads.left": "private", "heads.right": "private", "spare": "unused",
    }  # fmt: skip


def test_tied_layers_are_one_with_aliases(recon, config, tmp_path):
    (tmp_path / "words.py").write_text(
        "import torch\ndef data():\n    t = torch.arange(8) % 5\n    return [(t, (t.roll(1), t % 2))]\n"
    )
    tasks = [
        {"name": "word", "loss": "cross_entropy", "label": 0},
        {"name": "kind", "loss": "cross_entropy", "label": 1},
    ]
    path = config(model={"target": "tests.networks:Tied"}, data={"target": "words:data"}, tasks=tasks)
    recon("profile", path, "-o", "s.json").succeeds()
    embed = read_scores(Path("s.json")).layers[0]
    assert (embed.name, embed.aliases, embed.parameters) == (
        "embed", ("decode",), ("embed.weight", "decode.bias"),
    )  # fmt: skip


def test_targets_are_found_beside_the_config_first(recon, config, tmp_path):
    (tmp_path / "beside.py").write_text("from tests.networks import Frozen as make\n")
    path = config(model={"target": "beside:make"})
    recon("profile", path, "-o", "s.json").succeeds()
    assert "conv" not in [layer.name for layer in read_scores(Path("s.json")).layers]


def test_data_that_runs_out_is_started_over_and_that_is_said(recon, config):
    result = recon("profile", config(), "-o", "s.json", "--iterations", 12).succeeds()
    assert result.err.count("started over") == 1
    assert read_scores(Path("s.json")).batch_restarts == 2


def test_a_loss_that_is_not_finite_leaves_what_was_measured(recon, config, monkeypatch):
    monkeypatch.setattr(networks.explode_loss, "calls", 0)
    tasks = [{**TASKS[0], "loss": "tests.networks:explode_loss"}, TASKS[1]]
    result = recon("profile", config(tasks=tasks), "-o", "s.json")
    result.refuses("`left`", "became inf", "iteration 3", "s.partial.json")
    assert not Path("s.json").exists()
    partial = read_scores(Path("s.partial.json"))
    assert (partial.complete, partial.iterations, partial.iterations_requested) == (False, 2, 6)
    ranked = recon("rank", "s.partial.json", "--json").succeeds()
    assert "ended early" in ranked.err


def test_a_partial_file_never_replaces_another(recon, config, monkeypatch):
    tasks = [{**TASKS[0], "loss": "tests.networks:explode_loss"}, TASKS[1]]
    for name in ("s.partial.json", "s.partial-2.json"):
        monkeypatch.setattr(networks.explode_loss, "calls", 0)
        recon("profile", config(tasks=tasks), "-o", "s.json").refuses(name)
        assert Path(name).exists()


def test_an_interrupted_profile_leaves_what_was_measured(config, tmp_path):
    path = config(profile={"iterations": 10_000_000})
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recon_cli", "profile", str(path), "-o", "s.json"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # The note about the data comes when iterations are under way.
        assert "started over" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert "pass --resume" in rest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recon.yaml", "s.run"]
    assert sorted(p.name for p in (tmp_path / "s.run").iterdir()) == ["partial.json", "state.pt"]
    assert read_scores(tmp_path / "s.run" / "partial.json").iterations > 0


def test_scores_go_to_standard_output_alone(recon, config):
    result = recon("profile", config(), "-o", "-").succeeds()
    assert result.document["schema"] == "recon.scores/1"


@pytest.mark.parametrize(
    ("profile", "options", "measured", "stages"),
    [
        ({"iterations": 20}, [], list(range(20)), (5, 5, 5, 5)),
        ({"iterations": 20, "samples": 6}, [], [0, 3, 6, 10, 13, 16], (2, 1, 2, 1)),
        ({"iterations": 20, "every": 8}, [], [0, 8, 16], (1, 1, 0, 1)),
        ({"iterations": 20, "every": 8}, ["--samples", 2], [0, 10], (1, 0, 1, 0)),
        ({"iterations": 20, "samples": 6}, ["--every", 10, "--iterations", 11], [0, 10], (1, 0, 0, 1)),
    ],
)
def test_the_steps_that_are_measured_are_those_asked_for(recon, config, profile, options, measured, stages):
    recon("profile", config(profile=profile), "-o", "s.json", *options).succeeds()
    scores = read_scores(Path("s.json"))
    steps = 11 if "--iterations" in options else 20
    assert (scores.steps, scores.steps_requested, scores.complete) == (steps, steps, True)
    assert (scores.iterations, scores.iterations_requested) == (len(measured), len(measured))
    assert scores.stage_iterations == stages


def test_steps_that_are_not_measured_train_as_measured_ones_do(recon, config):
    """The last of 20 steps is measured alone and among others; the weights that it sees are the same to rounding."""
    sparse = config("sparse.yaml", profile={"iterations": 20, "every": 19, "stages": 20})
    recon("profile", sparse, "-o", "few.json").succeeds()
    recon("profile", config(profile={"iterations": 20, "stages": 20}), "-o", "all.json").succeeds()
    few, every = read_scores(Path("few.json")), read_scores(Path("all.json"))
    assert few.iterations == 2
    for one, two in zip(few.layers, every.layers, strict=True):
        assert one.stages[19].histogram == two.stages[19].histogram
        assert one.stages[19].gds == pytest.approx(two.stages[19].gds, abs=1e-5)
        assert one.stages[19].norms == pytest.approx(two.stages[19].norms, rel=1e-5)


@pytest.mark.parametrize(
    ("parts", "tolerance"),
    [({"optimizer": {"target": "SGD", "accumulate": 3}}, 1e-6), ({"precision": "float16"}, 0.01)],
)
def test_norms_are_those_of_the_losses_however_they_are_scaled(recon, config, parts, tolerance):
    recon("profile", config(profile={"iterations": 1}), "-o", "plain.json").succeeds()
    recon("profile", config(profile={"iterations": 1}, **parts), "-o", "scaled.json").succeeds()
    plain, scaled = read_scores(Path("plain.json")), read_scores(Path("scaled.json"))
    assert scaled.norms(None) == pytest.approx(plain.norms(None), rel=tolerance)
    for one, two in zip(plain.layers, scaled.layers, strict=True):
        assert scaled.norms(two) == pytest.approx(plain.norms(one), rel=tolerance)


@pytest.mark.parametrize("options", [["--every", 2, "--samples", 3], ["--every", 0], ["--samples", 0]])
def test_samplings_that_contradict_each_other_are_refused(recon, config, options):
    result = recon("profile", config(), "-o", "s.json", *options)
    assert result.code == 2
    assert "every" in result.err or "samples" in result.err
    profile = {"every": 2, "samples": 3}
    recon("profile", config(profile=profile), "-o", "s.json").refuses("`profile`: `every` and `samples` contradict")


def test_severities_and_stages_are_those_of_the_config(recon, config):
    profile = {"iterations": 5, "stages": 2, "severities": [-0.2, -0.0, -0.3]}
    recon("profile", config(profile=profile), "-o", "s.json").succeeds()
    scores = read_scores(Path("s.json"))
    assert scores.severities == (0.0, -0.2, -0.3)
    assert scores.stage_iterations == (3, 2)
    assert '"severities":[0.0,-0.2,-0.3]' in Path("s.json").read_text()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": {"target": "no_such_package:make"}}, ["`model.target`", "`no_such_package`", "cannot be found"]),
        ({"model": {"target": "tests.networks:two_task"}}, ["has no `two_task`", "did you mean `two_tasks`?"]),
        ({"model": {"target": "tests.networks:not_a_module"}}, ["returned a `str`", "nn.Module was expected"]),
        ({"model": {"target": "tests.networks:failing"}}, ["model.target", "OSError: no weights today"]),
        ({"model": {"target": "tests.networks:two_tasks", "kwargs": {"depth": 3}}}, ["TypeError", "depth"]),
        ({"model": {"target": "tests.networks:OneTensor"}}, ["returns a `Tensor`", "`left`"]),
        (
            {"model": {"target": "tests.networks:Unshared"}},
            ["no layer is shared by two tasks", "`left` reaches `left`"],
        ),
        ({"data": {"target": "tests.networks:nothing"}}, ["`tests.networks:nothing`", "is empty"]),
        ({"data": {"target": "tests.networks:two_task_data", "kwargs": {"size": 0}}}, ["is empty"]),
        (
            {"data": {"target": "tests.networks:two_task_data", "kwargs": {"size": 3}, "batch_size": 8}},
            ["3 items, fewer than one batch of 8", "drop_last"],
        ),
        ({"data": {"target": "tests.networks:not_a_module"}}, ["(inputs, targets) was expected"]),
        ({"optimizer": {"target": "SDG"}}, ["torch.optim has no optimizer `SDG`", "did you mean `SGD`?"]),
        ({"optimizer": {"target": "SGD", "kwargs": {"rate": 1}}}, ["optimizer.target", "rate"]),
        ({"tasks": [{**TASKS[0], "loss": "cross_entrop"}, TASKS[1]]}, ["did you mean `cross_entropy`?"]),
        ({"tasks": [{**TASKS[0], "loss": "tests.networks:per_item_loss"}, TASKS[1]]}, ["`left`", "shape (8,)"]),
        ({"tasks": [{**TASKS[0], "loss": "tests.networks:constant_loss"}, TASKS[1]]}, ["`left`", "no trainable"]),
        ({"tasks": [{**TASKS[0], "label": "up"}, TASKS[1]]}, ["no label `up`", "`left`, `right`"]),
        ({"tasks": [{**TASKS[0], "name": "up"}, TASKS[1]]}, ["no key `up`", "`left`, `right`"]),
        ({"profile": {"include": ["nothing*"]}}, ["no trainable layer is left"]),
    ],
)
def test_what_cannot_run_is_refused_in_a_sentence(recon, config, tmp_path, parts, words):
    recon("profile", config(**parts), "-o", "s.json").refuses(*words)
    assert not list(tmp_path.glob("s.*"))


def test_all_targets_that_cannot_be_found_are_reported_together(recon, config):
    tasks = [{**TASKS[0], "loss": "no_loss"}, TASKS[1]]
    path = config(model={"target": "nowhere:make"}, data={"target": "tests.networks:no_data"}, tasks=tasks)
    recon("profile", path, "-o", "s.json").refuses("3 errors", "`nowhere`", "`no_data`", "`no_loss`")


def test_a_generator_that_ran_out_cannot_be_started_over(recon, config):
    data = {"target": "tests.networks:generator_of_batches"}
    tasks = [{**task, "label": index} for index, task in enumerate(TASKS)]
    recon("profile", config(data=data, tasks=tasks), "-o", "s.json").refuses("cannot be started over")
    assert read_scores(Path("s.partial.json")).iterations == 3


def test_a_checkpoint_that_does_not_fit_is_refused(recon, config, tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    recon("profile", config(), "-o", "s.json", "--checkpoint", "other.pt").refuses("`other.pt`", "lacks `conv.bias`")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_cuda_is_refused(recon, config):
    recon("profile", config(), "-o", "s.json", "--device", "cuda").refuses("no CUDA device", "--device")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_cuda_gives_the_counts_that_the_cpu_gives(recon, config):
    for device in ("cpu", "cuda"):
        recon("profile", config(device="auto"), "-o", f"{device}.json", "--device", device).succeeds()
    one, two = (read_scores(Path(f"{device}.json")).layers for device in ("cpu", "cuda"))
    assert [layer.stages for layer in one] == [layer.stages for layer in two]


def test_an_existing_file_is_refused_before_any_work(recon, config):
    Path("s.json").write_text("mine")
    recon("profile", config(model={"target": "tests.networks:failing"}), "-o", "s.json").refuses("exists already")
    assert Path("s.json").read_text() == "mine"
    recon("profile", config(), "-o", "s.json", "--force").succeeds()
    assert read_scores(Path("s.json")).iterations == 6


def test_the_papers_resnet18_shares_41_layers_by_its_gradients(recon, config):
    tasks = [{**TASKS[0], "name": "fashion", "label": "fashion"}, {**TASKS[1], "name": "mnist", "label": "mnist"}]
    data = {"target": "recon_cli.datasets:small_multi_fashion_mnist", "batch_size": 4}
    path = config(model={"target": "recon_cli.zoo:resnet18"}, tasks=tasks, data=data)
    recon("profile", path, "-o", "s.json", "--iterations", 1).succeeds()
    scores = read_scores(Path("s.json"))
    assert len(scores.layers) == 41
    assert sum(layer.size for layer in scores.layers) == 11_221_540
    assert [layer.name for layer in scores.unranked] == ["heads.fashion", "heads.mnist"]


def test_a_layer_that_some_tasks_do_not_reach_is_counted_and_split_for_the_others(recon, config, tmp_path):
    (tmp_path / "three.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.trunk, self.part = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)\n"
        "        self.heads = torch.nn.ModuleDict({t: torch.nn.Linear(4, 3) for t in 'abc'})\n"
        "    def forward(self, x):\n"
        "        x = self.trunk(x); y = self.part(x)\n"
        "        return {'a': self.heads['a'](x), 'b': self.heads['b'](y), 'c': self.heads['c'](y)}\n"
        "def data():\n"
        "    g = torch.Generator().manual_seed(0)\n"
        "    return [(torch.randn(6, 4, generator=g), [torch.randint(3, (6,), generator=g) for _ in 'abc'])]\n"
    )
    tasks = [{"name": name, "loss": "cross_entropy", "label": index} for index, name in enumerate("abc")]
    recon("profile", config(model={"target": "three:Net"}, data={"target": "three:data"}, tasks=tasks), "-o", "s.json")
    trunk, part = read_scores(Path("s.json")).layers
    assert sum(stage.pairs for stage in trunk.stages) == 3 * 6
    assert (part.tasks, sum(stage.pairs for stage in part.stages)) == (("b", "c"), 6)
    recon("rank", "s.json", "-S", "0", "-o", "r.json").succeeds()
    from three import Net

    from recon_cli.checkpoints.saving import save_state_dict

    save_state_dict(Net().state_dict(), Path("m.safetensors"))
    # The tasks keep the profile's order, which is that of the model's outputs.
    split = ["split", "m.safetensors", "--ranking", "r.json", "--top-k", 2, "--tasks", "c,b,a"]
    plan = recon(*split, "--dry-run", "--json").succeeds().document
    branches = {x["name"]: [(b["id"], b["tasks"]) for b in x["branches"]] for x in plan["layers"]}
    assert plan["tasks"] == ["a", "b", "c"]
    assert branches["trunk"] == [("a", ["a"]), ("b", ["b"]), ("c", ["c"])]
    assert branches["part"] == [("b", ["b", "a"]), ("c", ["c"])]
    assert plan["sizes"]["after"]["parameters"] - plan["sizes"]["before"]["parameters"] == 2 * 20 + 20


def test_people_are_shown_how_alike_the_gradients_are(recon, config):
    out = recon("profile", config(), "-o", "s.json").succeeds().out
    scores = read_scores(Path("s.json"))
    rows = [line.split() for line in out.splitlines() if line]
    assert ["GDS", "GMS"] in [row[-2:] for row in rows]
    for first, layer in (("conv", scores.layers[0]), ("all", None)):
        row = next(row for row in rows if row[0] == first)
        assert float(row[-2]) == pytest.approx(scores.gds(layer), abs=6e-4)
        assert float(row[-1]) == pytest.approx(scores.gms(layer), abs=6e-3)
