"""Splitting checkpoints of every form into every form: the same tensors under the same names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.manifests import read_manifest
from tests import networks

SPLIT = ["--layers", "conv", "--tasks", "left,right"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return networks.two_tasks().state_dict()


def sharded(state):
    first, *others = state
    save_file({first: state[first]}, "one.safetensors")
    save_file({key: state[key] for key in others}, "two.safetensors")
    weight_map = {key: "one.safetensors" if key == first else "two.safetensors" for key in state}
    Path("in.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return "in.safetensors.index.json"


def saved(content, name="in.pt", **options):
    torch.save(content, name, **options)
    return name


SOURCES = {
    "safetensors": lambda state: (save_file(dict(state), "in.safetensors"), "in.safetensors")[1],
    "sharded": sharded,
    "torch": saved,
    "legacy": lambda state: saved(state, _use_new_zipfile_serialization=False),
    "nested": lambda state: saved({"epoch": 3, "net": {"weights": state}}),
    "Lightning": lambda state: saved({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, "in.ckpt"),
}


def expected(state, prefix=""):
    found = {}
    for key, value in state.items():
        names = [key]
        if key.startswith("conv."):
            names = [f"conv.tasks.{task}{key[len('conv') :]}" for task in ("left", "right")]
        found.update({prefix + name: value for name in names})
    return found


def assert_equal(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


@pytest.mark.parametrize("form", ["safetensors", "shards", "torch"])
@pytest.mark.parametrize("kind", SOURCES)
def test_any_form_is_split_into_any_form_and_verified(recon, state, kind, form):
    source = SOURCES[kind](state)
    output = "out.pt" if form == "torch" else "out.safetensors"
    options = ["--shard-size", "100B"] if form == "shards" else []
    recon("split", source, *SPLIT, "-o", output, *options).succeeds()
    if form == "shards":
        index = Path("out.safetensors.index.json")
        files = set(json.loads(index.read_text())["weight_map"].values())
        assert len(files) > 1
        found = {key: value for name in files for key, value in load_file(name).items()}
        output = index
    elif form == "safetensors":
        found = load_file(output)
    else:
        found = torch.load(output, weights_only=True)
        for key in {"nested": ["net", "weights"], "Lightning": ["state_dict"]}.get(kind, []):
            found = found[key]
    assert_equal(found, expected(state))
    assert read_manifest(Path(output)) == Manifest.read("out.manifest.json")
    recon("verify", output, "--source", source).succeeds()
    recon("verify", output, "--source", source, "--manifest", "out.manifest.json").succeeds()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_branched_checkpoint_of_any_form_is_not_split_again(recon, state, kind):
    source = SOURCES[kind](state)
    output = "out.pt" if source.endswith((".pt", ".ckpt")) else "out.safetensors"
    recon("split", source, *SPLIT, "-o", output).succeeds()
    recon("split", output, "--layers", "conv.tasks.left", "--tasks", "a,b", "-o", "again.safetensors").refuses(
        f"`{output}` is branched already"
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("output", ["out.safetensors", "out.pt"])
def test_what_a_wrapper_put_before_the_names_stays_there_and_layers_are_named_without_it(recon, state, prefix, output):
    torch.save({prefix + key: value for key, value in state.items()}, "in.pt")
    recon("split", "in.pt", *SPLIT, "-o", output).succeeds()
    found = load_file(output) if output.endswith(".safetensors") else torch.load(output, weights_only=True)
    assert_equal(found, expected(state, prefix))
    manifest = Manifest.read("out.manifest.json")
    assert (manifest.source.prefix, [layer.name for layer in manifest.layers]) == (prefix, ["conv"])
    recon("verify", output, "--source", "in.pt").succeeds()
    recon("split", "in.pt", "--layers", f"{prefix}conv", "--tasks", "left,right", "-o", output, "--force").succeeds()
    # `model.` is no wrapper's: it was known by the layer's name alone.
    name = "model.conv" if prefix == "model." else "conv"
    assert [layer.name for layer in Manifest.read("out.manifest.json").layers] == [name]


def test_what_lies_beside_the_weights_is_told(recon, state):
    network = networks.two_tasks()
    optimizer = torch.optim.Adam(network.parameters())
    content = {"epoch": 3, "model": state, "optimizer": optimizer.state_dict(), "ema": dict(state)}
    saved(content)
    told = recon("split", "in.pt", *SPLIT, "-o", "out.pt")
    told.succeeds()
    assert "the weights are those under `model`" in told.err
    assert "branched along: `optimizer`, `ema`" in told.err
    assert "kept as they are: `epoch`" in told.err
    assert torch.load("out.pt", weights_only=True)["epoch"] == 3
    left = recon("split", "in.pt", *SPLIT, "-o", "other.safetensors")
    assert "left out, as safetensors holds tensors alone" in left.err
    entries = {entry.path: entry.treatment for entry in Manifest.read("other.manifest.json").entries}
    assert entries == dict.fromkeys(["epoch", "optimizer", "ema"], "left out")


def test_the_weights_are_chosen_by_their_key(recon, state):
    saved({"generator": {"parts": state}, "discriminator": {"conv.weight": torch.ones(2)}})
    refused = recon("split", "in.pt", *SPLIT, "-o", "out.pt")
    refused.refuses("several state dicts: `generator.parts`, `discriminator`", "--key")
    recon("split", "in.pt", *SPLIT, "--key", "generator.parts", "-o", "out.pt").succeeds()
    found = torch.load("out.pt", weights_only=True)
    assert_equal(found["generator"]["parts"], expected(state))
    assert_equal(found["discriminator"], {"conv.weight": torch.ones(2)})
    recon("verify", "out.pt", "--source", "in.pt").succeeds()
    recon("split", "in.pt", *SPLIT, "--key", "generatr", "-o", "other.pt").refuses("has nothing under `generatr`")
    save_file(dict(state), "in.safetensors")
    recon("split", "in.safetensors", *SPLIT, "--key", "model", "-o", "other.pt").refuses("leave --key out")


@pytest.mark.parametrize("output", ["out.safetensors", "out.pt"])
def test_the_same_input_gives_the_same_bytes_in_every_form(recon, state, output):
    saved({"model": state, "ema": {key: value + 1 for key, value in state.items()}})
    content = []
    for _ in range(2):
        recon("split", "in.pt", *SPLIT, "-o", output, "--force").succeeds()
        content.append((Path(output).read_bytes(), Path("out.manifest.json").read_bytes()))
    assert content[0] == content[1]


@pytest.mark.parametrize("output", ["out.safetensors", "out.pt"])
def test_a_plan_of_a_training_checkpoint_is_carried_out_to_the_same_bytes(recon, state, output):
    network = networks.two_tasks()
    optimizer = torch.optim.Adam(network.parameters())
    saved({"module": {f"module.{k}": v for k, v in state.items()}, "optimizer": optimizer.state_dict()})
    planned = recon("split", "in.pt", *SPLIT, "--dry-run", "--json", "-o", output)
    planned.succeeds()
    Path("plan.json").write_text(planned.out)
    recon("split", "in.pt", "--plan", "plan.json", "-o", output).succeeds()
    by_plan = (Path(output).read_bytes(), Path("out.manifest.json").read_bytes())
    recon("split", "in.pt", *SPLIT, "-o", output, "--force").succeeds()
    assert by_plan == (Path(output).read_bytes(), Path("out.manifest.json").read_bytes())
    recon("split", "in.pt", "--plan", "plan.json", "--key", "module", "-o", "x.pt").refuses("--key")


def test_a_file_of_the_source_is_never_the_output(recon, state):
    source = sharded(state)
    before = Path("two.safetensors").read_bytes()
    recon("split", source, *SPLIT, "-o", "two.safetensors", "--force").refuses("is the input `two.safetensors`")
    assert Path("two.safetensors").read_bytes() == before
    Path("folder").mkdir()
    save_file(dict(state), "folder/model.safetensors")
    output = ["-o", "folder/model.safetensors", "--force"]
    recon("split", "folder", *SPLIT, *output).refuses("is the input `folder/model.safetensors`")


def test_shards_that_are_there_are_not_replaced_unasked(recon, state):
    saved(state)
    Path("out-00001-of-00002.safetensors").write_text("mine")
    sizes = [value.nbytes for value in expected(state).values()]
    half = f"{sum(sizes) - sizes[-1]}B"
    refused = recon("split", "in.pt", *SPLIT, "-o", "out.safetensors", "--shard-size", half)
    refused.refuses("`out-00001-of-00002.safetensors` exists already")
    assert not Path("out.manifest.json").exists()
