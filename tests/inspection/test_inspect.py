"""What `recon inspect` says of files, against what torch and safetensors read from them."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from docs.make_schemas import KINDS
from recon_cli.artifacts.inspection import Inspection
from recon_cli.checkpoints.tensors import TORCH_DTYPES
from recon_cli.inspection.documents import SUMMARIES
from recon_cli.inspection.inspect import inspect_file
from tests import networks

TASKS = ("--tasks", "left,right")


class Hostile:
    def __reduce__(self):
        return (os.system, ("touch owned",))


def tensors_of(inspection: Inspection) -> dict[str, tuple[object, ...]]:
    """Type, shape and bytes of the weights' tensors by name."""
    assert inspection.checkpoint is not None
    return {
        tensor.key: (tensor.dtype, tensor.shape, tensor.bytes)
        for layer in inspection.checkpoint.layers
        for tensor in layer.tensors
    }


def as_torch_has_it(state: dict[str, torch.Tensor]) -> dict[str, tuple[object, ...]]:
    return {
        key: (TORCH_DTYPES[str(value.dtype).removeprefix("torch.")], tuple(value.shape), value.nbytes)
        for key, value in state.items()
    }


def every_type() -> dict[str, torch.Tensor]:
    """A tensor of every type that torch has and Recon reads, one without dimensions and one without elements."""
    kinds = [getattr(torch, name) for name in TORCH_DTYPES if hasattr(torch, name)]
    state = {f"{str(kind).removeprefix('torch.')}.weight": torch.zeros(2, 3).to(kind) for kind in kinds}
    return {**state, "scalar.weight": torch.tensor(1.0), "empty.weight": torch.zeros(0, 4)}


def training_checkpoint() -> dict[str, object]:
    """What people save while they train: wrapped weights, a moving average, Adam's state and counters."""
    model = networks.two_tasks()
    optimizer = torch.optim.Adam(model.parameters())
    sum(output.sum() for output in model(torch.zeros(2, 1, 5, 5)).values()).backward()
    optimizer.step()
    state = model.state_dict()
    return {
        "epoch": 3,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "ema": {"shadow": {key: value.clone() for key, value in state.items()}},
        "optimizer": optimizer.state_dict(),
        "note": "x" * 100,
    }


# Checkpoints of every format


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_shown_as_torch_reads_them(tmp_path, zipped):
    path = tmp_path / "m.pt"
    state = every_type()
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = inspect_file(path)
    assert tensors_of(found) == as_torch_has_it(state)
    assert found.passed
    assert found.bytes == path.stat().st_size
    assert found.checkpoint.format.startswith("torch file")
    assert ("zip" in found.checkpoint.format) == zipped


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_safetensors_files_are_shown_as_safetensors_reads_them(tmp_path):
    path = tmp_path / "m.safetensors"
    state = {key: value for key, value in every_type().items() if not key.startswith(("complex32", "complex128"))}
    save_file(state, path, metadata={"format": "pt", "who": "we"})
    found = inspect_file(path)
    assert tensors_of(found) == as_torch_has_it(load_file(path))
    assert found.checkpoint.metadata == {"format": "pt", "who": "we"}
    assert found.checkpoint.format == "safetensors"
    assert found.checkpoint.storages == ()


def test_layers_hold_their_tensors_and_sizes(tmp_path):
    model = networks.two_tasks()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    checkpoint = inspect_file(tmp_path / "m.pt").checkpoint
    expected = {
        name: (sum(p.numel() for p in module.parameters()), sum(v.nbytes for v in module.state_dict().values()))
        for name, module in model.named_modules()
        if module._parameters
    }
    assert {layer.name: (layer.parameters, layer.bytes) for layer in checkpoint.layers} == expected
    (weights,) = checkpoint.state_dicts
    assert weights.parameters == sum(parameter.numel() for parameter in model.parameters())


def shards(folder: Path, state: dict[str, torch.Tensor], suffix: str) -> Path:
    """Save a state dict as two files and an index."""
    keys = list(state)
    parts = {f"1{suffix}": keys[:5], f"2{suffix}": keys[5:]}
    for name, part in parts.items():
        content = {key: state[key] for key in part}
        save_file(content, folder / name) if suffix == ".safetensors" else torch.save(content, folder / name)
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in parts.items() for key in part}}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_index_is_shown_with_its_files(tmp_path, suffix):
    state = networks.two_tasks().state_dict()
    found = inspect_file(shards(tmp_path, state, suffix))
    assert tensors_of(found) == as_torch_has_it(state)
    assert [file.name for file in found.files] == [f"model{suffix}.index.json", f"1{suffix}", f"2{suffix}"]
    assert found.bytes == sum((tmp_path / file.name).stat().st_size for file in found.files)


def test_of_an_index_that_lacks_a_file_the_others_are_shown(recon, tmp_path):
    state = networks.two_tasks().state_dict()
    index = shards(tmp_path, state, ".bin")
    (tmp_path / "2.bin").unlink()
    result = recon("inspect", index, "--json")
    assert result.code == 1
    found = Inspection.from_content(result.document, "it")
    assert tensors_of(found) == as_torch_has_it(dict(list(state.items())[:5]))
    assert [file.problem for file in found.files][:2] == [None, None]
    assert "there is no checkpoint" in found.files[2].problem
    (tmp_path / "1.bin").unlink()
    recon("inspect", index).refuses("there is no checkpoint")


@pytest.mark.parametrize("output", ["b.safetensors", "b.pt", "b.safetensors.index.json"])
def test_a_branched_checkpoint_tells_its_manifest(recon, checkpoint, output):
    split = ["split", checkpoint, "--layers", "conv,body.0", *TASKS, "-o", output.removesuffix(".index.json")]
    recon(*split, *(["--shard-size", "300B"] if output.endswith(".json") else [])).succeeds()
    document = recon("inspect", output, "--json").succeeds().document
    branching = document["checkpoint"]["branching"]
    manifest = json.loads(Path("b.manifest.json").read_text())
    assert branching == {name: manifest[name] for name in ("tasks", "layers", "statistics", "source", "selection")}
    assert "recon.manifest" not in document["checkpoint"]["metadata"]
    text = recon("inspect", output).succeeds().out
    assert "branched from `model.safetensors` for left, right" in text


def test_a_manifest_that_is_none_is_told(recon, tmp_path):
    save_file({"a.weight": torch.zeros(2)}, "b.safetensors", metadata={"recon.manifest": "{}"})
    result = recon("inspect", "b.safetensors", "--json")
    assert result.code == 1
    assert "the manifest in `b.safetensors`" in result.document["checkpoint"]["refusal"]["message"]
    assert len(result.document["checkpoint"]["layers"]) == 1


# Training checkpoints


def test_a_training_checkpoint_shows_every_state_dict_and_what_lies_beside(recon):
    content = training_checkpoint()
    torch.save(content, "t.ckpt")
    found = inspect_file(Path("t.ckpt")).checkpoint
    parameters = sum(parameter.numel() for parameter in networks.two_tasks().parameters())
    assert [(each.key, each.taken, each.parameters) for each in found.state_dicts] == [
        ("state_dict", True, parameters),
        ("ema.shadow", False, parameters),
    ]
    assert found.prefix == "module."
    assert [layer.name for layer in found.layers][:2] == ["conv", "norm"]
    assert found.layers[0].tensors[0].key == "module.conv.weight"
    moments = [value for state in content["optimizer"]["state"].values() for value in state.values()]
    assert [(entry.path, entry.kind, entry.tensors, entry.bytes) for entry in found.entries] == [
        ("epoch", "3", 0, 0),
        ("optimizer", "state of an optimizer", len(moments), sum(value.nbytes for value in moments)),
        ("note", "str of 100 characters", 0, 0),
    ]


def test_every_key_that_is_shown_can_be_taken(recon):
    torch.save(training_checkpoint(), "t.ckpt")
    for each in inspect_file(Path("t.ckpt")).checkpoint.state_dicts:
        found = inspect_file(Path("t.ckpt"), each.key).checkpoint
        assert [other.key for other in found.state_dicts if other.taken] == [each.key]
    recon("inspect", "t.ckpt", "--key", "ema.shado").refuses("nothing under `ema.shado`", "did you mean `ema.shadow`?")


def test_of_several_state_dicts_none_is_taken(recon):
    state = networks.two_tasks().state_dict()
    torch.save({"generator": state, "critic": state}, "gan.pt")
    result = recon("inspect", "gan.pt")
    assert result.code == 1
    assert "generator" in result.out
    assert "choose one with --key" in result.out
    text = recon("inspect", "gan.pt", "--key", "critic").succeeds().out
    assert "heads.left" in text


def test_a_key_within_an_optimizer_is_shown(tmp_path):
    torch.save({"optimizer": {"param_groups": [], "average": {"a.weight": torch.zeros(2)}}}, tmp_path / "o.pt")
    found = inspect_file(tmp_path / "o.pt", "optimizer.average").checkpoint
    assert [layer.name for layer in found.layers] == ["a"]


trees = st.recursive(
    st.integers(1, 3).map(torch.zeros) | st.integers() | st.text(max_size=5) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=3), trees, max_size=4))
def test_state_dicts_and_entries_are_all_of_a_file(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "t.pt"
    torch.save(tree, path)
    found = inspect_file(path).checkpoint
    counted = sum(each.tensors for each in (*found.state_dicts, *found.entries))
    assert counted == sum(isinstance(leaf, torch.Tensor) for leaf in leaves(torch.load(path, weights_only=True)))


def leaves(node: object) -> list[object]:
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in leaves(value)]
    if isinstance(node, list):
        return [leaf for value in node for leaf in leaves(value)]
    return [node]


# Ties and views


def test_ties_and_views_are_told_as_torch_has_them(recon):
    shared, alone = torch.zeros(10, 10), torch.zeros(1000)
    state = {
        "a.weight": shared, "b.weight": shared, "c.weight": shared[:3], "d.weight": shared.t(),
        "e.weight": alone[:1], "f.weight": torch.zeros(3),
    }  # fmt: skip
    torch.save(state, "m.pt")
    found = inspect_file(Path("m.pt")).checkpoint
    assert {t.key: t.tied for layer in found.layers for t in layer.tensors if t.tied} == {"b.weight": "a.weight"}
    loaded = torch.load("m.pt", weights_only=True)
    storages = {}
    for key, value in loaded.items():
        storages.setdefault(value.untyped_storage().data_ptr(), (value.untyped_storage().nbytes(), []))[1].append(key)
    assert [(each.bytes, list(each.tensors)) for each in found.storages] == [
        (size, [key for key in keys if key != "b.weight"])
        for size, keys in storages.values()
        if len(keys) > 1 or loaded[keys[0]].nbytes < size
    ]
    once = [value for key, value in state.items() if key != "b.weight"]
    assert found.state_dicts[0].bytes == sum(value.nbytes for value in once)
    text = recon("inspect", "m.pt").succeeds().out
    assert "a.weight = b.weight" in text
    assert "400 B: a.weight, c.weight, d.weight" in text


# What would be refused


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_foreign_is_named_and_not_run(recon, tmp_path, zipped):
    content = {**training_checkpoint(), "args": argparse.Namespace(lr=1), "x": [Hostile(), Hostile()]}
    torch.save(content, "bad.ckpt", _use_new_zipfile_serialization=zipped)
    result = recon("inspect", "bad.ckpt", "--json")
    assert result.code == 1
    assert sorted(Path().iterdir()) == [Path("bad.ckpt")]
    found = result.document["checkpoint"]
    assert {(part["path"], part["what"]) for part in found["foreign"]} == {
        ("args", "a `argparse.Namespace`"), ("x.0", "a `posix.system`"), ("x.1", "a `posix.system`"),
    }  # fmt: skip
    refused = recon("split", "bad.ckpt", "--layers", "conv", *TASKS, "--dry-run")
    refused.refuses(found["refusal"]["message"], found["refusal"]["hint"])
    assert len(found["layers"]) == 6
    assert [entry["kind"] for entry in found["entries"] if entry["path"] == "args"] == [
        "object of `argparse.Namespace`"
    ]


def test_with_a_key_what_else_is_in_the_file_is_shown_and_does_not_matter(recon):
    torch.save({**training_checkpoint(), "x": Hostile()}, "bad.ckpt")
    result = recon("inspect", "bad.ckpt", "--key", "state_dict", "--json").succeeds()
    assert [part["path"] for part in result.document["checkpoint"]["foreign"]] == ["x"]
    assert sorted(Path().iterdir()) == [Path("bad.ckpt")]


def test_a_whole_pickled_model_is_shown_as_what_it_is(recon):
    model = networks.two_tasks()
    torch.save(model, "model.pt")
    result = recon("inspect", "model.pt")
    assert result.code == 1
    assert "object of `tests.networks.TwoTasks`" in result.out
    assert f"{len(model.state_dict())}" in result.out
    assert "would be refused: `model.pt` is a `tests.networks.TwoTasks`" in result.out


def test_tensors_that_are_not_plain_are_named_beside_those_that_are(recon):
    state = {
        "plain.weight": torch.zeros(2, 2),
        "sparse.weight": torch.eye(3).to_sparse(),
        "repeated.weight": torch.zeros(3).expand(10**12, 3),
    }
    torch.save(state, "m.pt")
    result = recon("inspect", "m.pt", "--json")
    assert result.code == 1
    found = Inspection.from_content(result.document, "it").checkpoint
    problems = {tensor.key: tensor.problem for layer in found.layers for tensor in layer.tensors}
    assert problems["plain.weight"] is None
    assert problems["sparse.weight"] == "sparse"
    assert problems["repeated.weight"].startswith("a view that repeats its memory")
    assert found.state_dicts[0].bytes == 16
    assert "sparse.weight is sparse" in recon("inspect", "m.pt").out


def test_a_file_that_cannot_be_read_is_one_sentence(recon):
    torch.save({"w": torch.zeros(1000)}, "cut.pt")
    os.truncate("cut.pt", 1000)
    Path("pickle.pt").write_bytes(pickle.dumps({"w": [1.0]}))
    Path("text.pt").write_text("hello")
    save_file({"w": torch.zeros(1000)}, "cut.safetensors")
    os.truncate("cut.safetensors", 200)
    Path("empty.index.json").write_text("{}")
    Path("folder").mkdir()
    for name in ("cut.pt", "pickle.pt", "text.pt", "cut.safetensors", "empty.index.json", "folder", "missing"):
        for option in ("--json", "--tensors"):
            recon("inspect", name, option).refuses(f"`{name}`")
    os.mkfifo("pipe")
    recon("inspect", "pipe").refuses("is not a regular file")


def test_a_tensor_wrapped_again_and_again_is_not_plain(recon, tmp_path):
    torch.save({"w": torch.nn.Parameter(torch.zeros(2))}, "m.pt")
    with zipfile.ZipFile("m.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    # PROTO 2, a dict of one key, and 600 calls of `_rebuild_parameter` around each other.
    deep = (
        b"\x80\x02}X\x01\x00\x00\x00w" + 600 * b"ctorch._utils\n_rebuild_parameter\n(" + b"N" + 600 * b"\x88NtR" + b"s."
    )
    with zipfile.ZipFile("deep.pt", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, deep if name.endswith("data.pkl") else data)
    recon("split", "deep.pt", "--layers", "w", *TASKS, "--dry-run").refuses("wrapped again and again")
    result = recon("inspect", "deep.pt")
    assert result.code == 1
    assert "w is damaged: it is wrapped again and again" in result.out


def test_names_are_harmless_to_a_terminal(recon):
    names = ("\x1b[31mred", "[bold]loud[/bold]", "two\nlines", "\u202eleft")
    torch.save({**{f"{name}.weight": torch.zeros(2) for name in names}, "\x1b[2J": "\x1b[2J", "x": Hostile()}, "m.pt")
    save_file({f"{names[0]}.weight": torch.zeros(2)}, "m.safetensors", metadata={"\x1b]0;": "\x1b[31m"})
    for arguments in (["m.pt"], ["m.pt", "--tensors"], ["m.safetensors"]):
        result = recon("inspect", *arguments)
        for sign in ("\x1b", "\u202e"):
            assert sign not in result.out + result.err
    assert "[bold]loud[/bold]" in recon("inspect", "m.pt").out
    assert recon("inspect", "m.pt", "--json").out.isascii()


# Documents


def test_every_kind_of_document_has_a_summary():
    assert set(SUMMARIES) == set(KINDS)


def test_documents_are_told_by_their_schema(recon, scores, ranking, checkpoint, config):
    split = ["split", checkpoint, "--ranking", ranking, "--top-k", 1]
    recon(*split, "-o", "b.safetensors").succeeds()
    Path("plan.json").write_text(recon(*split, "--dry-run", "--json").out)
    Path("verification.json").write_text(recon("verify", "b.safetensors", "--source", checkpoint, "--json").out)
    Path("comparison.json").write_text(recon("compare-rankings", ranking, ranking, "--json").out)
    Path("inspection.json").write_text(recon("inspect", checkpoint, "--json").out)
    extract = ["extract", "b.safetensors", "--task", "left", "-o", "e.safetensors"]
    Path("extraction.json").write_text(recon(*extract, "--json").out)
    Path("unsplitting.json").write_text(recon("unsplit", "b.safetensors", "-o", "u.safetensors", "--json").out)
    Path("difference.json").write_text(recon("diff", "e.safetensors", "u.safetensors", "--json").out)
    Path("methods.json").write_text(recon("methods", "--json").out)
    shutil.copy(scores, "copy.json")
    recon("compare-conflicts", scores, "copy.json", "-o", "conflict-comparison.json").succeeds()
    Path("tasks.json").write_text(recon("tasks", scores, "--json").out)
    shutil.copy("b.manifest.json", "manifest.json")
    training = config("train.yaml", validation={"target": "tests.networks:two_task_data"})
    recon("train", training, "-o", "joint", "--epochs", 1, "-q").succeeds()
    shutil.copy("joint/results.json", "results.json")
    shutil.copy("joint/seed-0/training.json", "training.json")
    shutil.copytree("joint", "again")
    recon("compare-results", "joint", "again", "-o", "result-comparison.json", "-q").succeeds()
    chain = config("chain.yaml", validation={"target": "tests.networks:two_task_data"}, train={"iterations": 1})
    chain.write_text(json.dumps({**json.loads(chain.read_text()), "run": {"severity": 0.0, "select": {"top_k": 1}}}))
    recon("run", chain, "-o", "chain", "-q").succeeds()
    shutil.copy("chain/report.json", "run.json")
    shutil.copy("chain/ledger.json", "ledger.json")
    recon("search", training, "--method", "conal", "--iterations", 1, "-o", "search.json", "-q").succeeds()
    for kind, words in {
        "scores": ["left, right", "6 of 6"],
        "ranking": ["left, right", "severity", "first layers"],
        "manifest": ["model.safetensors", "top-k 1"],
        "plan": ["top-k 1", "split layers"],
        "verification": ["passed", "yes"],
        "comparison": ["0.000"],
        "inspection": ["model.safetensors"],
        "extraction": ["left", "e.safetensors"],
        "unsplitting": ["equal", "u.safetensors"],
        "difference": ["e.safetensors, u.safetensors", "yes"],
        "conflict-comparison": ["left, right", "copy.json 0.00%", "-0.01"],
        "tasks": ["left, right", "all shared layers as one", "-0.1"],
        "training": ["left, right", "5, in 1 epoch", "step 5: left/loss", "best by loss"],
        "results": ["one for all tasks", "joint", "left/loss"],
        "result-comparison": ["joint, again", "improvement over joint, above 0 is better", "again +0.00%"],
        "run": ["left, right", "split layers", "joint, joint-recon, single-task", "not measured in training"],
        "ledger": ["profile, rank, split recon", "steps that were begun", "none"],
        "search": ["left, right", "conal", "conv, body.0, body.2", "1, in 1 stage"],
        "methods": ["manipulation", "gradops", "balancing", "famo"],
    }.items():
        text = recon("inspect", f"{kind}.json").succeeds().out
        assert f"recon.{kind}/1" in text
        assert all(word in text for word in words), text
        document = recon("inspect", f"{kind}.json", "--json").succeeds().document
        assert document["document"]["document_schema"] == f"recon.{kind}/1"


def test_scores_and_rankings_show_where_in_the_network_conflicts_are(recon, scores, ranking):
    for path, title in ((scores, "rate of cosines below -0.1"), (ranking, "score")):
        assert f"{title} of each layer, in the network's order:" in recon("inspect", path).succeeds().out
        assert recon("inspect", path, "--json").document["document"].keys() == {"document_schema", "facts"}


def test_a_plain_ranking_and_standard_input_are_documents(recon):
    result = recon("inspect", "-", stdin='{"a": 3, "b": 0}').succeeds()
    assert "standard input: recon.ranking/1" in result.out
    assert "a (3), b (0)" in result.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": "recon.rankin/1"}', "did you mean `recon.ranking/1`?"),
        ('{"schema": ["x"]}', "does not know"),
        ('{"schema": "recon.ranking/1"}', "is not a valid recon.ranking/1 document"),
        ('{"hidden_size": 3, "name": "x"}', "names no schema"),
        ("{}", "no document of Recon"),
        ("{nonsense", "is not valid JSON"),
    ],
)
def test_json_that_is_no_document_is_refused(recon, text, words):
    Path("x.json").write_text(text)
    recon("inspect", "x.json").refuses("`x.json`", words)


# How it is shown


def test_a_large_model_does_not_flood_and_nothing_is_cut_silently(recon):
    state = {f"layers.{number}.weight": torch.zeros(3) for number in range(1_000)}
    torch.save(state, "m.pt")
    text = recon("inspect", "m.pt").succeeds().out
    assert len(text.splitlines()) < 120
    assert "1000 tensors in 1000 layers: 3,000 parameters" in text
    assert "and 900 more layers: 2,700 parameters" in text
    whole = recon("inspect", "m.pt", "--tensors").succeeds().out
    assert all(key in whole for key in state)
    assert len(recon("inspect", "m.pt", "--json").document["checkpoint"]["layers"]) == 1_000


def test_quiet_says_by_its_exit_code_alone_whether_a_file_is_taken(recon, checkpoint):
    assert recon("inspect", checkpoint, "-q") == type(recon("--version"))(0, "", "")
    torch.save({"x": Hostile()}, "bad.pt")
    result = recon("inspect", "bad.pt", "-q")
    assert (result.code, result.out) == (1, "")
    assert "bad.pt would be refused as it is" in result.err


def test_an_inspection_is_read_as_it_was_written(recon, checkpoint):
    Path("i.json").write_text(recon("inspect", checkpoint, "--json").succeeds().out)
    assert Inspection.read("i.json") == inspect_file(checkpoint)
