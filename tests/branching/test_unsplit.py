"""`recon unsplit`: the shared checkpoint back, against plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import recon_cli
from recon_cli.branching.plan import split_per_task
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.checkpoints.state_dict import read_state_dict
from tests.branching.branched_files import (
    FORMS,
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
@given(splits(), st.sampled_from(FORMS), st.sampled_from(["out.safetensors", "out.pt"]), st.booleans())
def test_a_fresh_split_goes_back_bit_for_bit(tmp_path_factory, split, form, output, average):
    network, layers, tasks = split
    folder = tmp_path_factory.mktemp("x")
    state = network.state_dict()
    branched = write_branched(folder / form, state, manifest_of(state, layers, tasks), shard_size_of(form))
    found = recon_cli.unsplit(branched, folder / output, average=average)
    assert (found.method, found.averaged) == ("equal", 0)
    if output == "out.pt":
        assert all_bits(torch.load(folder / output, weights_only=True)) == all_bits(state)
    else:
        assert {key: bits(value) for key, value in load_file(folder / output).items()} == dict(all_bits(state))


@settings(max_examples=40)
@given(splits(), st.integers(0, 2**31))
def test_the_average_is_that_of_float64_rounded_once(tmp_path_factory, split, seed):
    network, layers, tasks = split
    folder = tmp_path_factory.mktemp("x")
    state = network.state_dict()
    manifest = manifest_of(state, layers, tasks)
    generator = torch.Generator().manual_seed(seed)
    trained, expected = {}, {}
    for key, names in plan_of(state, manifest).places.items():
        if key == "norm.num_batches_tracked":
            values = [torch.tensor(at) for at in torch.randperm(len(names), generator=generator).tolist()]
            expected[key] = torch.tensor(len(names) - 1)
        elif state[key].dtype == torch.bool or len(names) == 1:
            values = [state[key].clone() for _ in names]
            expected[key] = state[key]
        else:
            noise = [torch.randn(state[key].shape, generator=generator) for _ in names]
            values = [(state[key] + each).to(state[key].dtype) for each in noise]
            wide = torch.complex128 if state[key].is_complex() else torch.float64
            expected[key] = torch.stack([value.to(wide) for value in values]).mean(0).to(state[key].dtype)
        trained.update(zip(names, values, strict=True))
    save_file(trained, folder / "t.safetensors")
    manifest.write(folder / "m.json")
    recon_cli.unsplit(folder / "t.safetensors", folder / "o.pt", average=True, manifest=folder / "m.json")
    assert all_bits(torch.load(folder / "o.pt", weights_only=True)) == all_bits(expected)
    recon_cli.unsplit(folder / "t.safetensors", folder / "t.pt", task=tasks[0], manifest=folder / "m.json")
    recon_cli.extract(folder / "t.safetensors", tasks[0], folder / "e.pt", manifest=folder / "m.json")
    assert (folder / "t.pt").read_bytes() == (folder / "e.pt").read_bytes()


@pytest.mark.parametrize("writer", ["safetensors", "recon"])
def test_a_safetensors_file_comes_back_to_the_byte(recon, checkpoint, writer):
    state = {**load_file(checkpoint), "half": torch.ones(3, dtype=torch.float16), "flag": torch.tensor(True)}
    if writer == "safetensors":
        save_file(state, "source.safetensors", {"format": "pt"})
    else:
        save_state_dict(state, Path("source.safetensors"))
    recon("split", "source.safetensors", "--layers", "conv,norm,half", *TASKS, "-o", "b.safetensors").succeeds()
    out = recon("unsplit", "b.safetensors", "-o", "back.safetensors").succeeds().out
    assert "the branches of 8 tensors were equal, bit for bit" in out
    assert Path("back.safetensors").read_bytes() == Path("source.safetensors").read_bytes()


def trained(checkpoint: Path, recon) -> dict[str, torch.Tensor]:
    recon("split", checkpoint, "--layers", "conv,norm,body.0", *TASKS, "-o", "b.safetensors").succeeds()
    state = load_file("b.safetensors")
    state["conv.tasks.left.weight"] = torch.full((4, 1, 3, 3), 3.0)
    state["conv.tasks.right.weight"] = torch.full((4, 1, 3, 3), 3.0)
    state["conv.tasks.right.weight"][0, 0, 0, 0] = 4.5
    state["norm.tasks.right.num_batches_tracked"] += 7
    return state


def test_branches_that_differ_are_refused_and_how_far_they_are_apart_is_told(recon, checkpoint):
    torch.save(trained(checkpoint, recon), "t.pt")
    arguments = ["unsplit", "t.pt", "--manifest", "b.manifest.json", "-o", "o.pt"]
    # 1.5 / sqrt(36 * 9) = 8.33%; a counter alone has no norm to speak of.
    recon(*arguments).refuses(
        "the branches of 2 layers of `t.pt` differ: `norm`; `conv` (by up to 1.5, 8.33% of its norm)", "--average"
    )
    assert not Path("o.pt").exists()
    out = recon(*arguments, "--average").succeeds().out
    assert "the branches of 9 tensors are joined; those of 2 differed and are averaged" in out
    found = torch.load("o.pt", weights_only=True)
    assert found["conv.weight"].flatten()[:2].tolist() == [3.75, 3.0]
    assert found["norm.num_batches_tracked"] == 7
    document = recon(*arguments, "--average", "--force", "--json").succeeds().document
    assert document["schema"] == "recon.unsplitting/1"
    assert (document["method"], document["averaged"]) == ("average", 2)
    assert [layer["differing"] for layer in document["layers"]] == [1, 1, 0]
    recon(*arguments, "--task", "left", "--force").succeeds()
    assert torch.load("o.pt", weights_only=True)["norm.num_batches_tracked"] == 0
    recon(*arguments, "--task", "left", "--average").refuses("contradict each other")
    recon(*arguments, "--task", "up").refuses("no task `up`")
    recon(*arguments, "--task", "left").refuses("exists already")


def write_flags(*values: torch.Tensor) -> Path:
    """A branched checkpoint of one layer with a weight and a mask, and these masks in its branches."""
    state = {"a.weight": torch.ones(3), "a.mask": values[0]}
    tasks = tuple("tuvw"[: len(values)])
    manifest = manifest_of(state, [split_per_task("a", (), tasks)], tasks)
    manifest.write("m.json")
    branched = {f"a.tasks.{task}.mask": value for task, value in zip(tasks, values, strict=True)}
    branched |= {f"a.tasks.{task}.weight": torch.ones(3) for task in tasks}
    save_file(branched, "t.safetensors")
    return Path("t.safetensors")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
def test_whole_numbers_that_differ_have_no_mean(recon, dtype):
    path = write_flags(torch.tensor([0, 1]).to(dtype), torch.tensor([1, 1]).to(dtype))
    recon("unsplit", path, "--manifest", "m.json", "-o", "o.safetensors", "--average").refuses(
        "the branches of 1 tensor differ, and their type has no mean: `a.mask`", "--task"
    )
    recon("unsplit", path, "--manifest", "m.json", "-o", "o.safetensors", "--task", "u").succeeds()
    assert load_file("o.safetensors")["a.mask"].tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64,
])  # fmt: skip
def test_every_type_of_numbers_has_a_mean_in_pieces(recon, dtype):
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(150_001, generator=generator).to(dtype) for _ in range(3)]
    # Where all agree the value stays, however its sum would round or overflow.
    for value in values:
        value[:2] = torch.tensor([0.1, float("inf")]).to(dtype)
    path = write_flags(*values)
    recon("unsplit", path, "--manifest", "m.json", "-o", "o.safetensors", "--average").succeeds()
    wide = torch.stack([value.to(torch.complex128 if dtype.is_complex else torch.float64) for value in values])
    expected = wide.mean(0).to(dtype)
    expected[:2] = values[0][:2]
    found = read_state_dict(Path("o.safetensors"))
    assert bits(found["a.mask"]) == bits(expected)
    assert torch.equal(found["a.weight"], torch.ones(3))


def test_nan_makes_the_mean_nan_and_the_difference_unknown(recon):
    path = write_flags(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0]))
    arguments = ["unsplit", path, "--manifest", "m.json", "-o", "o.safetensors"]
    assert "% of its norm" not in recon(*arguments).refuses("`a`").err
    recon(*arguments, "--average").succeeds()
    assert load_file("o.safetensors")["a.mask"].isnan().tolist() == [False, True]
