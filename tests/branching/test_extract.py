"""`recon extract`: one task's plain checkpoint, against plain torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import recon_cli
from recon_cli.branching.manifests import read_manifest
from recon_cli.branching.plan import split_per_task
from recon_cli.branching.verify import verify
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.checkpoints.state_dict import read_state_dict
from tests import networks
from tests.branching.branched_files import (
    FORMS,
    Network,
    all_bits,
    bits,
    manifest_of,
    plan_of,
    shard_size_of,
    splits,
    write_branched,
)

TASKS = ("--tasks", "left,right")


@settings(max_examples=40)
@given(splits(), st.sampled_from(FORMS), st.sampled_from(["out.safetensors", "out.pt"]))
def test_every_task_of_a_fresh_split_gets_the_source(tmp_path_factory, split, form, output):
    network, layers, tasks = split
    folder = tmp_path_factory.mktemp("x")
    state = network.state_dict()
    branched = write_branched(folder / form, state, manifest_of(state, layers, tasks), shard_size_of(form))
    for task in tasks:
        out = folder / f"{len(list(folder.iterdir()))}{output}"
        found = recon_cli.extract(branched, task, out)
        assert found.tensors == len(state)
        if output == "out.pt":
            loaded = torch.load(out, weights_only=True)
            assert all_bits(loaded) == all_bits(state)
        else:
            loaded = load_file(out)
            assert {key: bits(value) for key, value in loaded.items()} == dict(all_bits(state))
        network.load_state_dict(loaded)


@settings(max_examples=40)
@given(splits(), st.sampled_from(FORMS), st.integers(0, 2**31))
def test_a_task_gets_its_own_branches_whatever_they_were_trained_to(tmp_path_factory, split, form, seed):
    network, found, tasks = split
    folder = tmp_path_factory.mktemp("x")
    state = network.state_dict()
    manifest = manifest_of(state, found, tasks)
    generator = torch.Generator().manual_seed(seed)
    trained, expected = {}, {task: {} for task in tasks}
    for key, names in plan_of(state, manifest).places.items():
        values = [other_values(state[key], generator) for _ in names]
        trained.update(zip(names, values, strict=True))
        owner = key.rpartition(".")[0] or key
        owned = next((s for s in found if len(names) > 1 and owner in (s.name, *getattr(s, "aliases", ()))), None)
        for task in tasks:
            used = 0 if owned is None else [task in branch.tasks for branch in owned.branches].index(True)
            expected[task][key] = values[used]
    # What people save after training: in any order, wrapped, without a manifest inside.
    if form == "x.pt":
        content = {f"module.{name}": value for name, value in reversed(trained.items())}
        torch.save({"model": content, "epoch": 3}, path := folder / "x.pt")
    else:
        save_file(trained, path := folder / "x.safetensors")
    manifest.write(folder / "m.json")
    for task in tasks:
        recon_cli.extract(path, task, folder / f"{task}.pt", manifest=folder / "m.json")
        assert all_bits(torch.load(folder / f"{task}.pt", weights_only=True)) == all_bits(expected[task])


def other_values(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, value.shape, generator=generator).to(value.dtype)


def test_the_extracted_network_computes_what_the_branched_one_does_for_the_task(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv,norm,body.2", *TASKS, "-o", "b.safetensors").succeeds()
    branched = recon_cli.branch(networks.two_tasks(), "b.safetensors")
    branched.load_state_dict(load_file("b.safetensors"))
    optimizer = torch.optim.SGD(branched.parameters(), lr=0.1)
    images = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.zero_grad()
        sum((output - at).square().sum() for at, output in enumerate(branched(images).values())).backward()
        optimizer.step()
    torch.save(branched.state_dict(), "trained.pt")
    outputs = branched.eval()(images)
    for task in ("left", "right"):
        result = recon("extract", "trained.pt", "--manifest", "b.manifest.json", "--task", task, "-o", f"{task}.pt")
        assert "are those of task" in result.succeeds().out
        plain = networks.two_tasks().eval()
        plain.load_state_dict(torch.load(f"{task}.pt", weights_only=True))
        assert torch.equal(plain(images)[task], outputs[task])
    assert not torch.equal(load_file(checkpoint)["conv.weight"], plain.conv.weight)


def test_what_was_done_is_told(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv,norm", *TASKS, "-o", "b.safetensors").succeeds()
    out = recon("extract", "b.safetensors", "--task", "left", "-o", "left.safetensors").succeeds().out
    assert "7 tensors of 2 layers are those of task left, 8 are kept as they are" in out
    document = recon("extract", "b.safetensors", "--task", "right", "-o", "r.safetensors", "--json").document
    assert document["schema"] == "recon.extraction/1"
    assert document["layers"] == [{"layer": "conv", "branch": "right"}, {"layer": "norm", "branch": "right"}]
    assert (document["tensors"], document["kept"], document["files"]) == (15, 8, ["r.safetensors"])
    err = recon("extract", "b.safetensors", "--task", "left", "-o", "left.safetensors").refuses("exists already").err
    assert "--force" in err
    recon("extract", "b.safetensors", "--task", "left", "-o", "left.safetensors", "--force").succeeds()


def test_the_manifest_is_left_out_of_the_plain_checkpoint_and_other_metadata_kept(recon, checkpoint):
    from safetensors import safe_open

    save_file(load_file(checkpoint), "tagged.safetensors", {"epoch": "7"})
    recon("split", "tagged.safetensors", "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    recon("extract", "b.safetensors", "--task", "left", "-o", "out.safetensors").succeeds()
    with safe_open("out.safetensors", "pt") as file:
        assert file.metadata() == {"epoch": "7", "format": "pt"}


@pytest.mark.parametrize("form", FORMS)
def test_the_manifest_is_found_in_every_form(tmp_path, form):
    state = Network().state_dict()
    layers = [split_of("norm"), split_of("embed", "decode")]
    manifest = manifest_of(state, layers, ("a", "b"))
    branched = write_branched(tmp_path / form, state, manifest, shard_size_of(form))
    assert read_manifest(branched) == manifest
    model = recon_cli.branch(Network(), branched)
    assert set(model.state_dict()) == set(read_state_dict(branched))
    torch.save(state, tmp_path / "source.pt")
    assert verify(branched, tmp_path / "source.pt").passed
    other = manifest_of({**state, "shift": torch.ones(3)}, layers, ("a", "b"))
    other.write(tmp_path / "other.json")
    problems = verify(branched, tmp_path / "source.pt", tmp_path / "other.json").problems
    assert any("is not the one inside the branched checkpoint" in problem for problem in problems)


def split_of(name: str, *aliases: str):
    return split_per_task(name, aliases, ("a", "b"))


def test_ties_are_kept_from_torch_file_to_torch_file(tmp_path):
    state = Network().state_dict()
    manifest = manifest_of(state, [split_of("embed", "decode")], ("a", "b"))
    branched = write_branched(tmp_path / "b.pt", state, manifest)
    recon_cli.extract(branched, "b", tmp_path / "out.pt")
    recon_cli.unsplit(branched, tmp_path / "shared.pt")
    for name in ("out.pt", "shared.pt"):
        found = torch.load(tmp_path / name, weights_only=True)
        assert found["embed.weight"].data_ptr() == found["decode.weight"].data_ptr()
        assert found["embed.weight"].data_ptr() != found["norm.weight"].data_ptr()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_what_stands_before_all_names_is_left_out(recon, checkpoint, prefix):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    wrapped = {f"{prefix}{key}": value for key, value in load_file("b.safetensors").items()}
    save_state_dict(wrapped, Path("w.safetensors"))
    result = recon("extract", "w.safetensors", "--manifest", "b.manifest.json", "--task", "left", "-o", "o.safetensors")
    assert f"note: all names begin with `{prefix}` in w.safetensors; it is left out" in result.succeeds().err
    assert all_bits(read_state_dict(Path("o.safetensors"))) == all_bits(read_state_dict(checkpoint))


def test_names_that_the_source_has_behind_a_prefix_keep_it(recon, checkpoint):
    state = {f"module.{key}": value for key, value in load_file(checkpoint).items()}
    save_state_dict(state, Path("source.safetensors"))
    recon("split", "source.safetensors", "--layers", "conv,norm", *TASKS, "-o", "b.safetensors").succeeds()
    result = recon("extract", "b.safetensors", "--task", "left", "-o", "left.safetensors").succeeds()
    assert result.err == "note: all names that are written begin with `module.`, as in the source\n"
    assert Path("left.safetensors").read_bytes() == Path("source.safetensors").read_bytes()
    # Trained under another wrapper, it still gets the source's names.
    for number, prefix in enumerate(["", "_orig_mod."]):
        trained = {prefix + key.removeprefix("module."): value for key, value in load_file("b.safetensors").items()}
        torch.save(trained, "t.pt")
        arguments = ["t.pt", "--manifest", "b.manifest.json", "--task", "left", "-o", f"{number}.safetensors"]
        assert ("`_orig_mod.` in t.pt; it is left out" in recon("extract", *arguments).succeeds().err) == bool(prefix)
        assert Path(f"{number}.safetensors").read_bytes() == Path("source.safetensors").read_bytes()


def test_a_branched_training_checkpoint_has_its_weights_where_its_source_had_them(recon, checkpoint):
    state = load_file(checkpoint)
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"a": {"first": state}, "b": other, "epoch": 3}, "source.pt")
    recon("split", "source.pt", "--key", "a.first", "--layers", "conv,norm", *TASKS, "-o", "b.pt").succeeds()
    recon("extract", "b.pt", "--task", "right", "-o", "right.pt").succeeds()
    recon("unsplit", "b.pt", "-o", "shared.pt").succeeds()
    for name in ("right.pt", "shared.pt"):
        assert all_bits(torch.load(name, weights_only=True)) == all_bits(state)
    recon("unsplit", "b.pt", "--manifest", "b.manifest.json", "-o", "o.pt").refuses("several state dicts", "--key")
    recon("unsplit", "b.pt", "--manifest", "b.manifest.json", "--key", "a.first", "-o", "o.pt").succeeds()


def test_another_precision_is_kept_and_told(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv,norm", *TASKS, "-o", "b.safetensors").succeeds()
    branched = recon_cli.branch(networks.two_tasks(), "b.safetensors").to(torch.bfloat16)
    torch.save(branched.state_dict(), "trained.pt")
    result = recon("extract", "trained.pt", "--manifest", "b.manifest.json", "--task", "left", "-o", "left.pt")
    assert "14 tensors of type F32 in the manifest have the type BF16" in result.succeeds().err
    networks.two_tasks().to(torch.bfloat16).load_state_dict(torch.load("left.pt", weights_only=True))
    assert torch.load("left.pt", weights_only=True)["conv.weight"].dtype == torch.bfloat16


def test_a_large_one_is_divided(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    arguments = ["extract", "b.safetensors", "--task", "left"]
    out = recon(*arguments, "-o", "o.safetensors", "--shard-size", "300B").succeeds().out
    assert "o.safetensors.index.json and 3 shards" in out
    assert all_bits(read_state_dict(Path("o.safetensors.index.json"))) == all_bits(read_state_dict(checkpoint))
    recon(*arguments, "-o", "o.pt", "--shard-size", "300B").refuses(
        "--shard-size divides safetensors", "`o.safetensors`"
    )
    recon(*arguments, "-o", "p.safetensors", "--shard-size", "some").refuses("--shard-size: `some` is no size")


def test_no_shard_of_the_input_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = Network().state_dict()
    branched = write_branched(Path("b.safetensors"), state, manifest_of(state, [split_of("scale")], ("a", "b")), 100)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    for name in (*before, Path("b.safetensors")):
        with pytest.raises(recon_cli.ReconError, match="is the input"):
            recon_cli.extract(branched, "a", name, shard_size=100, overwrite=True)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def drop(state, manifest):
    del state["norm.bias"], state["conv.tasks.left.bias"]


def add(state, manifest):
    state["metric.weight"] = torch.zeros(1)


def reshape(state, manifest):
    state["conv.tasks.left.bias"] = torch.zeros(5)


def recount(state, manifest):
    state["norm.num_batches_tracked"] = torch.zeros((), dtype=torch.int32)


def convert_one(state, manifest):
    state["conv.tasks.right.bias"] = state["conv.tasks.right.bias"].half()


def rename_layer(state, manifest):
    manifest["layers"][0]["name"] = "other"


def rename_branch(state, manifest):
    manifest["layers"][0]["branches"][0]["id"] = "other"


MISFITS = {
    drop: "`changed.pt` does not fit its manifest: it lacks 2 of 17 tensors: `conv.tasks.left.bias`, `norm.bias`",
    add: "it holds 1 tensor that the manifest does not name: `metric.weight`",
    reshape: "`conv.tasks.left.bias` is F32 [5], but the manifest says F32 [4]",
    recount: "`norm.num_batches_tracked` is I32 [], but the manifest says I64 []",
    convert_one: "the branches `conv.tasks.left.bias`, `conv.tasks.right.bias` of `changed.pt` have different types",
    rename_layer: "the manifest contradicts itself: `conv.weight` is split, but not as any of its layers",
    rename_branch: "the manifest contradicts itself: `conv.weight` is split",
}


@pytest.mark.parametrize("change", MISFITS)
def test_what_does_not_fit_the_manifest_is_named(recon, checkpoint, change):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    state, manifest = load_file("b.safetensors"), json.loads(Path("b.manifest.json").read_text())
    change(state, manifest)
    torch.save(state, "changed.pt")
    Path("m.json").write_text(json.dumps(manifest))
    arguments = ["changed.pt", "--manifest", "m.json", "-o", "o.pt"]
    recon("extract", *arguments, "--task", "left").refuses(MISFITS[change])
    recon("unsplit", *arguments).refuses(MISFITS[change])
    assert not Path("o.pt").exists()


REFUSED = {
    "an unknown task": (["b.safetensors", "--task", "lefft", "-o", "o.pt"], "did you mean `left`?"),
    "a task far off": (["b.safetensors", "--task", "x", "-o", "o.pt"], "its tasks: `left`, `right`"),
    "no manifest": (["model.safetensors", "--task", "left", "-o", "o.pt"], "carries no manifest"),
    "no file": (["none.pt", "--task", "left", "-o", "o.pt"], "there is no checkpoint `none.pt`"),
    "the manifest itself": (["b.manifest.json", "--task", "left", "-o", "o.pt"], "neither a safetensors file"),
    "standard output": (["b.safetensors", "--task", "left", "-o", "-"], "not written to standard output"),
    "over the input": (["b.safetensors", "--task", "left", "-o", "b.safetensors", "--force"], "is the input"),
    "over the manifest": (
        ["b.safetensors", "--manifest", "b.manifest.json", "--task", "left", "-o", "b.manifest.json", "--force"],
        "is the input",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_use_is_refused_and_leaves_nothing(recon, checkpoint, kind):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    before = {path: path.read_bytes() for path in Path().iterdir()}
    arguments, words = REFUSED[kind]
    recon("extract", *arguments).refuses(words)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_damaged_manifest_in_a_torch_file_is_refused(tmp_path):
    state = Network().state_dict()
    manifest = manifest_of(state, [split_of("scale")], ("a", "b"))
    path = write_branched(tmp_path / "b.pt", state, manifest)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"schema":"recon.manifest/1"', b'"schema":"recon.manifest/9"'))
    with pytest.raises(recon_cli.ReconError, match="checksum"):
        recon_cli.extract(path, "a", tmp_path / "o.pt")
