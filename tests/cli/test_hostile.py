"""Inputs and surroundings that broke the command once, and must not again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_model

from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.staging import StagedFile
from recon_cli.checkpoints.saving import save_state_dict
from tests import networks
from tests.conftest import read_scores

TASKS = ("--tasks", "left,right")
LEFT = {"name": "left", "loss": "cross_entropy", "label": "left"}
RIGHT = {"name": "right", "loss": "cross_entropy", "label": "right"}


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `recon` is the command."""
    root = Path(__file__).parents[2]
    script = f'recon() {{ "{sys.executable}" -m recon_cli "$@"; }}; {command}'
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, capture_output=True, text=True, check=False, env=environment, timeout=60
    )


def user_module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(f"import torch\nfrom tests.networks import *\n{text}\n")
    return name


def test_no_input_is_replaced_even_with_force(recon, config, scores, ranking, checkpoint, tmp_path):
    os.link(scores, "linked.json")
    for output in (scores, "linked.json"):
        recon("rank", scores, "-o", output, "--force").refuses("is the input")
    for arguments in (["--checkpoint", checkpoint], []):
        model = {"target": "tests.networks:two_tasks", "checkpoint": None if arguments else checkpoint.name}
        recon("profile", config(model=model), *arguments, "-o", checkpoint, "--force").refuses("is the input")
    split = ["split", checkpoint, "--ranking", ranking, "--top-k", 1, "--force", "-o"]
    recon(*split, ranking).refuses("is the input")
    ranking.rename("b.manifest.json")
    recon("split", checkpoint, "--ranking", "b.manifest.json", "--top-k", 1, "--force", "-o", "b.safetensors").refuses(
        "`b.manifest.json` is the input"
    )


def test_a_failed_check_is_told_by_the_exit_code_even_if_nobody_reads_on(recon, checkpoint, tmp_path):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    other = {key: value + 1 for key, value in load_file(checkpoint).items()}
    save_state_dict(other, Path("other.safetensors"))
    result = shell("recon verify b.safetensors --source other.safetensors | true; echo ${PIPESTATUS[0]}", tmp_path)
    assert result.stdout == "1\n", result.stderr
    quiet = recon("verify", "b.safetensors", "--source", "other.safetensors", "--quiet")
    assert (quiet.code, quiet.out) == (1, "")
    assert "is not what was split" in quiet.err


def test_of_two_files_neither_is_replaced_if_one_cannot_be(recon, checkpoint, monkeypatch):
    arguments = ["split", checkpoint, *TASKS, "-o", "b.safetensors", "--force", "--layers"]
    recon(*arguments, "conv").succeeds()
    before = {path: path.read_bytes() for path in Path().iterdir()}
    publish = StagedFile.publish

    def refuse_manifest(self: StagedFile) -> None:
        if self.path.name == "b.manifest.json":
            raise PermissionError(1, "Operation not permitted")
        publish(self)

    monkeypatch.setattr(StagedFile, "publish", refuse_manifest)
    recon(*arguments, "norm").refuses("cannot write `b.safetensors` and `b.manifest.json`", "Operation not permitted")
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("import missing_package", "imports `missing_package`, which cannot be found"),
        ("class Sly(Exception):\n  def __str__(self): raise ValueError\nraise Sly", "failed: Sly"),
        ("def make():\n  import sys; sys.exit(0)", "SystemExit: 0"),
        ("class make(Frozen): train = None", "the move of the model to the device failed"),
        ("class make(TwoTasks):\n  def forward(self, x): import sys; sys.exit(3)", "the model failed: SystemExit: 3"),
        ("class make(TwoTasks):\n  def forward(self, x): return 5", "returns a `int`"),
        (
            "class Hook(torch.autograd.Function):\n"
            "  @staticmethod\n  def forward(ctx, x): return x.clone()\n"
            "  @staticmethod\n  def backward(ctx, g): raise KeyError('lost')\n"
            "class make(TwoTasks):\n"
            "  def forward(self, x): return {k: Hook.apply(v) for k, v in super().forward(x).items()}",
            "the backward pass failed: KeyError: 'lost'",
        ),
    ],
)
def test_code_of_the_user_that_fails_is_one_sentence(recon, config, tmp_path, text, words, request):
    name = user_module(tmp_path, f"failing{abs(hash(request.node.name))}", text)
    recon("profile", config(model={"target": f"{name}:make"}), "-o", "s.json").refuses(words)
    assert not Path("s.json").exists()


@pytest.mark.parametrize("target", ["LBFGS", "SparseAdam"])
def test_an_optimizer_that_cannot_step_is_one_sentence(recon, config, target):
    recon("profile", config(optimizer={"target": target}), "-o", "s.json").refuses("the optimizer's step failed")
    partial = read_scores(Path("s.partial.json"))
    assert partial.iterations == 1
    assert all(sum(stage.pairs for stage in layer.stages) == 1 for layer in partial.layers)


@pytest.mark.parametrize("loss", ["lambda o, t: (o, t)", "lambda o, t: 5"])
def test_a_loss_of_another_kind_is_one_line(recon, config, tmp_path, loss):
    name = user_module(tmp_path, f"losses{len(loss)}", f"loss = {loss}")
    result = recon("profile", config(tasks=[{**LEFT, "loss": f"{name}:loss"}, RIGHT]), "-o", "s.json")
    assert result.refuses("the loss of task `left` is a").err.count("\n") == 1


@pytest.mark.parametrize("targets", ["5", "None", "{1, 2}"])
def test_targets_of_another_kind_are_refused(recon, config, tmp_path, targets):
    name = user_module(tmp_path, f"targets{len(targets)}", f"def data(): return [(torch.zeros(2, 1, 5, 5), {targets})]")
    tasks = [{**LEFT, "label": 0}, {**RIGHT, "label": 1}]
    recon("profile", config(tasks=tasks, data={"target": f"{name}:data"}), "-o", "s.json").refuses("targets are a")


def test_what_the_users_code_prints_is_no_data(recon, config, tmp_path):
    name = user_module(tmp_path, "printing", "def make():\n  print('downloading'); return TwoTasks()")
    result = recon("profile", config(model={"target": f"{name}:make"}), "-o", "-").succeeds()
    assert result.document["schema"] == "recon.scores/1"
    assert "downloading" in result.err


def test_the_output_stands_where_it_was_asked_for_wherever_the_users_code_goes(recon, config, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    name = user_module(tmp_path, "moving", "import os\ndef make():\n  os.chdir('elsewhere'); return TwoTasks()")
    recon("profile", config(model={"target": f"{name}:make"}), "-o", "s.json").succeeds()
    assert (tmp_path / "s.json").exists()


def test_measurements_are_kept_if_the_output_is_taken_meanwhile(recon, config, tmp_path):
    name = user_module(
        tmp_path,
        "taking",
        "import pathlib\ndef make():\n  pathlib.Path('s.json').write_text('mine'); return TwoTasks()",
    )
    recon("profile", config(model={"target": f"{name}:make"}), "-o", "s.json").refuses("exists", "s.partial.json")
    assert Path("s.json").read_text() == "mine"
    assert read_scores(Path("s.partial.json")).iterations == 6


def test_closed_streams_are_no_crash(scores, tmp_path):
    for command in ("recon rank scores.json --json -S -0.9 2>&-", "recon rank - <&-", "recon rank scores.json >&-"):
        result = shell(command, tmp_path)
        assert "unexpectedly" not in result.stderr + result.stdout
        if "--json" in command:
            assert json.loads(result.stdout)["severity"] == -0.9
        if "<&-" in command:
            assert "standard input is closed" in result.stderr
            assert result.returncode == 2


@pytest.mark.parametrize("value", ["!!bool x", '!!int ""', '!!float ""', "!!timestamp x", "!!map [a]", "!own x"])
def test_yaml_tags_are_refused(recon, value):
    Path("c.yaml").write_text(f"seed: {value}")
    recon("profile", "c.yaml", "-o", "s.json").refuses("tags")


@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(40), b"\x80\x05K\x05."])
def test_damaged_torch_files_are_refused(recon, content):
    Path("m.pt").write_bytes(content)
    recon("split", "m.pt", "--layers", "a", *TASKS, "-o", "b.safetensors").refuses("`m.pt`")


@pytest.mark.parametrize("content", ['{"a": 1' + "0" * 400 + "}", '{"a\\ud800": 1}', '{"a": "\\uD83D"}'])
def test_json_that_no_program_agrees_on_is_refused(recon, content):
    Path("r.json").write_text(content)
    recon("rank", "r.json").refuses("`r.json`")


def test_tensors_with_impossible_names_are_refused(recon):
    for name in ("__metadata__", "a.\ud800"):
        torch.save({"a.w": torch.zeros(1), name: torch.zeros(1)}, "m.pt")
        recon("split", "m.pt", "--layers", "a", *TASKS, "-o", "b.safetensors").refuses("safetensors cannot hold")


@pytest.mark.parametrize("output", [".", "/", "", "..", "-"])
def test_outputs_without_a_name_are_refused(recon, checkpoint, output, tmp_path):
    before = sorted(tmp_path.iterdir())
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", output).refuses()
    assert sorted(tmp_path.iterdir()) == before


def test_a_pipe_is_no_checkpoint(recon, checkpoint):
    os.mkfifo("pipe")
    recon("split", "pipe", "--layers", "conv", *TASKS, "--dry-run").refuses("`pipe` is not a regular file")
    recon("verify", "pipe", "--source", checkpoint).refuses("pipe")


def test_a_dry_run_refuses_what_the_run_would_refuse(recon, checkpoint):
    split = ["split", checkpoint, "--layers", "conv", *TASKS, "--dry-run", "-o"]
    recon(*split, checkpoint).refuses("is the input")
    recon(*split, "none/b.safetensors").refuses("does not exist")


def test_a_branched_file_is_known_whatever_its_name(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.weights").succeeds()
    recon("verify", "b.weights", "--source", checkpoint).succeeds()
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "c.PT").succeeds()
    assert torch.load("c.PT", weights_only=True)


def test_names_from_files_cannot_move_the_terminal(recon, scores, tmp_path):
    content = json.loads(scores.read_text().replace('"left"', '"\\u001b[31mleft"'))
    Path("red\x1b[31m.json").write_text(json.dumps(content))
    for arguments in (["rank", "red\x1b[31m.json"], ["rank", "none\x1b[31m.json"]):
        result = recon(*arguments)
        assert "\x1b" not in result.out + result.err


class Buffered(networks.TwoTasks):
    """A network with buffers that look like weights: of the root, of a module without weights, and of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.rope = torch.nn.Module()
        self.rope.register_buffer("inv_freq", torch.ones(3))
        self.conv.register_buffer("mask", torch.ones(100))


def test_buffers_that_look_like_weights_are_told_by_the_profile(recon, config):
    recon("profile", config(model={"target": "tests.cli.test_hostile:Buffered"}), "-o", "s.json").succeeds()
    recon("rank", "s.json", "-S", "0", "-o", "r.json").succeeds()
    model = Buffered()
    save_state_dict(model.state_dict(), Path("m.safetensors"))
    recon("split", "m.safetensors", "--ranking", "r.json", "--top-k", 4, "-o", "b.safetensors").succeeds()
    sizes = Manifest.read(Path("b.manifest.json")).sizes
    assert sizes.before.parameters == sum(p.numel() for p in model.parameters())
    assert sizes.split_parameters == sizes.shared_parameters == 40 + 8 + 30 + 42
    assert "conv.tasks.left.mask" in load_file("b.safetensors")


def test_tied_weights_count_once_in_every_format(recon, config, tmp_path):
    name = user_module(
        tmp_path, "tied_words", "def data():\n  t = torch.arange(8) % 5\n  return [(t, (t.roll(1), t % 2))]"
    )
    tasks = [{**LEFT, "name": "word", "label": 0}, {**RIGHT, "name": "kind", "label": 1}]
    path = config(model={"target": "tests.networks:Tied"}, data={"target": f"{name}:data"}, tasks=tasks)
    recon("profile", path, "-o", "s.json").succeeds()
    recon("rank", "s.json", "-S", "0", "-o", "r.json").succeeds()
    model = networks.Tied()
    torch.save(model.state_dict(), "m.pt")
    save_state_dict(model.state_dict(), Path("both.safetensors"))
    save_model(model, "one.safetensors")
    for source in ("m.pt", "both.safetensors", "one.safetensors"):
        output = f"branched_{source}.safetensors"
        recon("split", source, "--ranking", "r.json", "--top-k", 2, "-o", output).succeeds()
        sizes = Manifest.read(Path(f"branched_{source}.manifest.json")).sizes
        assert sizes.before.parameters == sum(p.numel() for p in model.parameters()), source
        assert sizes.split_parameters == 25 + 20, source
    recon("profile", path, "--checkpoint", "one.safetensors", "-o", "again.json").succeeds()


def test_a_ranking_with_other_sizes_is_refused(recon, ranking, checkpoint):
    content = json.loads(ranking.read_text())
    content["layers"][0]["size"] += 1
    Path("r.json").write_text(json.dumps(content))
    recon("split", checkpoint, "--ranking", "r.json", "--top-k", 1, "--dry-run").refuses("in the ranking")


def test_a_stream_of_items_is_batched_as_asked(recon, config, tmp_path):
    name = user_module(
        tmp_path,
        "streaming",
        "class data(torch.utils.data.IterableDataset):\n"
        "  def __iter__(self):\n"
        "    d = TwoTaskData(12)\n"
        "    for i in range(12): yield d[i]",
    )
    for drop_last, restarts in ((True, 5), (False, 2)):
        data = {"target": f"{name}:data", "batch_size": 8, "drop_last": drop_last}
        recon("profile", config(data=data), "-o", "s.json", "--force").succeeds()
        assert read_scores(Path("s.json")).batch_restarts == restarts


def test_tables_are_whole_in_a_log(recon, tmp_path):
    long = "layer" * 60
    Path("r.json").write_text(json.dumps({long: 1234567, "b": 1}))
    out = recon("rank", "r.json").succeeds().out
    assert long in out
    assert "1234567" in out
    many = recon("compare-rankings", *["r.json"] * 20).succeeds().out
    assert "…" not in many


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["tensors"][0]["copies"].update(left=m["tensors"][0]["copies"]["right"] + "2"),
        lambda m: m["layers"][0].update(name="norm"),
        lambda m: [branch.update(id=branch["id"] + "2") for branch in m["layers"][0]["branches"]],
        lambda m: m["sizes"].update(split_parameters=5),
        lambda m: m["source"].update(digest="sha256:" + "0" * 64),
    ],
)
def test_a_tampered_manifest_fails_the_check(recon, checkpoint, change):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    content = json.loads(Path("b.manifest.json").read_text())
    content["tensors"].sort(key=lambda record: record["copies"] is None)
    recon("verify", "b.safetensors", "--source", checkpoint, "--manifest", "b.manifest.json").succeeds()
    change(content)
    Path("m.json").write_text(json.dumps(content))
    assert recon("verify", "b.safetensors", "--source", checkpoint, "--manifest", "m.json").code == 1


def test_messages_give_as_many_digits_as_it_takes(recon, scores):
    recon("rank", scores, "-S", "-0.1000001").refuses("the severity -0.1000001")
    Path("r.json").write_text('{"a": 3, "b": 1}')
    save_state_dict({"a.w": torch.zeros(1), "b.w": torch.zeros(1)}, Path("m.safetensors"))
    arguments = ["split", "m.safetensors", "--ranking", "r.json", *TASKS, "--dry-run", "--min-score"]
    recon(*arguments, "3.0000000001").refuses("a score of 3.0000000001 or more; the highest is 3")
