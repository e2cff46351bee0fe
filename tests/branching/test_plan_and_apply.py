"""Plans of `recon split`: what they say, and that carrying one out does what a direct split does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.checkpoints.saving import save_state_dict

TASKS = ("--tasks", "left,right")


@pytest.fixture
def plan(recon, ranking, checkpoint):
    """A plan for the small network's checkpoint, in a file."""
    result = recon("split", checkpoint, "--ranking", ranking, "--top-k", 2, "--dry-run", "--json").succeeds()
    Path("plan.json").write_text(result.out)
    return Path("plan.json").resolve()


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().iterdir()}


def test_a_plan_is_the_same_for_the_same_input(recon, ranking, checkpoint, plan):
    again = recon("split", checkpoint, "--ranking", ranking, "--top-k", 2, "--dry-run", "--json").succeeds()
    assert again.out == plan.read_text()
    os.utime(checkpoint)
    checkpoint.rename("other.safetensors")
    moved = recon("split", "other.safetensors", "--ranking", ranking, "--top-k", 2, "--dry-run", "--json").document
    assert {**moved, "source": None} == {**json.loads(plan.read_text()), "source": None}
    assert moved["source"]["digest"] == SplitPlan.read(plan).source.digest


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("piped", [False, True])
def test_a_plan_is_carried_out_as_the_split_itself_would_be(recon, ranking, checkpoint, suffix, piped):
    source = Path(f"source{suffix}")
    state = load_file(checkpoint)
    torch.save(state, source) if suffix == ".pt" else save_file(state, source, {"epoch": "7"})
    choice = ["--ranking", ranking, "--random-layers", 2, "--seed", 3]
    text = recon("split", source, *choice, "--dry-run", "--json").succeeds().out
    recon("split", source, *choice, "-o", "direct.safetensors").succeeds()
    Path("p.json").write_text(text)
    given = "-" if piped else "p.json"
    recon("split", source, "--plan", given, "-o", "planned.safetensors", stdin=text if piped else "").succeeds()
    assert Path("planned.safetensors").read_bytes() == Path("direct.safetensors").read_bytes()
    assert Path("planned.manifest.json").read_bytes() == Path("direct.manifest.json").read_bytes()
    recon("verify", "planned.safetensors", "--source", source).succeeds()


def test_a_plan_says_how_much_is_written_and_what_of(recon, checkpoint, plan):
    recon("split", checkpoint, "--plan", plan, "-o", "b.safetensors").succeeds()
    document, manifest = SplitPlan.read(plan), Manifest.read(Path("b.manifest.json"))
    assert document.output.bytes == Path("b.safetensors").stat().st_size
    assert document.output.manifest_bytes == Path("b.manifest.json").stat().st_size
    assert document.output.free_bytes is None
    assert document.source.digest == manifest.source.digest
    assert [tensor.places for tensor in document.tensors] == [tensor.places for tensor in manifest.tensors]


def test_the_size_is_right_whatever_the_names(recon):
    save_state_dict({'\u00e9\U0001f600"\\\n.w': torch.zeros(3), "b": torch.zeros(())}, Path("x.safetensors"))
    split = ["split", "x.safetensors", "--layers", '\u00e9\U0001f600"\\\n', "--tasks", "a,\u00fc"]
    planned = recon(*split, "--dry-run", "--json").succeeds().document["output"]
    recon(*split, "-o", "b.safetensors").succeeds()
    assert planned["bytes"] == Path("b.safetensors").stat().st_size
    assert planned["manifest_bytes"] == Path("b.manifest.json").stat().st_size


def test_what_is_written_is_said_before(recon, ranking, checkpoint):
    arguments = ["split", checkpoint, "--ranking", ranking, "--top-k", 1]
    assert "to write: " in recon(*arguments, "--dry-run").succeeds().out
    result = recon(*arguments, "-o", "b.safetensors").succeeds()
    assert "note: writing 0.0" in result.err
    assert recon(*arguments, "-o", "c.safetensors", "--quiet").succeeds().err == ""


def test_free_space_is_shown_and_needed(recon, checkpoint, monkeypatch):
    free = 10_000_000
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((1, 2, 9, 9, free // 2, 0, 0, 0, 0, 255)))
    split = ["split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors"]
    output = recon(*split, "--dry-run", "--json").succeeds().document["output"]
    assert output["free_bytes"] == free
    needed = output["bytes"] + output["manifest_bytes"]
    # Blocks of 2 bytes: one block too few, and just enough.
    free = needed // 2 * 2 - 2
    before = contents()
    recon(*split).refuses(f"take {needed:,} bytes, but only {free:,} are free")
    recon(*split, "--dry-run").refuses("are free")
    assert contents() == before
    free = needed + needed % 2
    recon(*split).succeeds()


def scaled(state: dict[str, torch.Tensor], key: str) -> dict[str, torch.Tensor]:
    return {name: value * 2 if name == key else value for name, value in state.items()}


CHANGES = {
    "another value": (lambda s: scaled(s, "norm.weight"), {}, "its tensors have other values"),
    "a value of a split layer": (lambda s: scaled(s, "conv.weight"), {}, "its tensors have other values"),
    "a shape": (lambda s: {**s, "conv.bias": torch.zeros(9)}, {}, "its tensor `conv.bias` has another type or shape"),
    "a type": (lambda s: {**s, "conv.bias": torch.zeros(4).int()}, {}, "`conv.bias` has another type or shape"),
    "one more": (lambda s: {**s, "more": torch.zeros(1)}, {}, "its tensor `more` is new"),
    "one less": (lambda s: {k: v for k, v in s.items() if k != "norm.bias"}, {}, "its tensor `norm.bias` is gone"),
    "metadata": (lambda s: s, {"epoch": "8"}, "its metadata has changed"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_source_that_changed_is_refused(recon, checkpoint, kind):
    state = load_file(checkpoint)
    save_file(state, "source.safetensors", {"epoch": "7"})
    plan = recon("split", "source.safetensors", "--layers", "conv", *TASKS, "--dry-run", "--json").succeeds().out
    Path("p.json").write_text(plan)
    change, metadata, words = CHANGES[kind]
    times = Path("source.safetensors").stat()
    save_file(change(state), "source.safetensors", {"epoch": "7", **metadata})
    os.utime("source.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
    before = contents()
    split = ["split", "source.safetensors", "--plan", "p.json"]
    recon(*split, "-o", "b.safetensors").refuses("is not the checkpoint that the plan was made for", words)
    recon(*split, "--dry-run", "--json").refuses(words)
    assert contents() == before


def test_the_same_tensors_in_another_file_are_refused(recon, checkpoint, plan):
    state = load_file(checkpoint)
    torch.save(state, "model.pt")
    save_state_dict(dict(reversed(state.items())), Path("turned.safetensors"))
    for source in ("model.pt", "turned.safetensors"):
        recon("split", source, "--plan", plan, "-o", "b.safetensors").refuses("in another order or format")


def test_a_plan_can_be_tried_without_writing(recon, checkpoint, plan):
    before = contents()
    assert recon("split", checkpoint, "--plan", plan, "--dry-run", "--json").succeeds().out == plan.read_text()
    assert contents() == before


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["--top-k", "1"], "beside --top-k,"),
        (["--layers", "conv"], "beside --layers,"),
        (["--tasks", "a,b", "--seed", "0"], "beside --tasks, --seed,"),
        (["--ranking", "ranking.json"], "beside --ranking,"),
        (["--granularity", "layer"], "beside --granularity,"),
    ],
)
def test_a_plan_and_other_options_are_refused(recon, checkpoint, plan, others, words):
    recon("split", checkpoint, "--plan", plan, *others, "-o", "b.safetensors").refuses(
        f"--plan is given {words} but a plan says itself what is split".replace(",,", ",")
    )


def test_a_plan_is_no_output(recon, checkpoint, plan):
    plan.rename("b.manifest.json")
    recon("split", checkpoint, "--plan", "b.manifest.json", "-o", "b.safetensors", "--force").refuses("is the input")


EDITS = {
    "a copy elsewhere": (lambda c: next(split_tensors(c))["copies"].update(left="x"), "the plan contradicts itself"),
    "another layer": (lambda c: rename(c, "norm" if c["layers"][0]["name"] == "conv" else "conv"),
                      "the plan contradicts itself"),
    "a layer that is not there": (lambda c: rename(c, "gone"), "no layer `gone`"),
    "a cost of another layer": (lambda c: c["layers"][0].update(name="gone"), "the cost is of other layers"),
    "no layers": (lambda c: c["layers"].clear(), "no layer is split"),
    "a task less": (lambda c: c["layers"][0]["branches"].pop(), "no partition of the tasks"),
    "a tensor twice": (lambda c: c["tensors"].append(c["tensors"][0]), "named twice"),
    "another schema": (lambda c: c.update(schema="recon.manifest/1"), "has the schema `recon.manifest/1`"),
    "a field more": (lambda c: c.update(more=1), "`more`"),
}  # fmt: skip


def rename(content, name):
    costs = content["cost"]["by_layer"]
    costs[name] = costs.pop(content["layers"][0]["name"])
    content["layers"][0]["name"] = name


def split_tensors(content):
    return (tensor for tensor in content["tensors"] if tensor["copies"])


@pytest.mark.parametrize("kind", EDITS)
def test_a_plan_that_was_edited_into_nonsense_is_refused(recon, checkpoint, plan, kind):
    edit, words = EDITS[kind]
    content = json.loads(plan.read_text())
    edit(content)
    plan.write_text(json.dumps(content))
    before = contents()
    recon("split", checkpoint, "--plan", plan, "-o", "b.safetensors").refuses(words)
    assert contents() == before


def test_a_dry_run_for_people_does_not_read_the_tensors(recon, checkpoint, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("recon_cli.branching.split.digests_of", refuse)
    recon("split", checkpoint, "--layers", "conv", *TASKS, "--dry-run").succeeds()
