"""`recon split` and `recon verify`, against plain torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recon_cli.artifacts.manifest import Manifest
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.zoo import resnet18
from tests import networks
from tests.conftest import AUTHORS_RANKING

TASKS = ("--tasks", "left,right")


def expected_of(state: dict[str, torch.Tensor], layers: list[str]) -> dict[str, torch.Tensor]:
    """The branched state dict, made with plain torch for layers that are leaves."""
    result = {}
    for key, value in state.items():
        layer, _, name = key.rpartition(".")
        if layer in layers:
            result.update({f"{layer}.tasks.{task}.{name}": value for task in ("left", "right")})
        else:
            result[key] = value
    return result


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_the_papers_sizes(recon):
    torch.manual_seed(0)
    save_state_dict(resnet18().state_dict(), Path("resnet18.safetensors"))
    arguments = ["--ranking", AUTHORS_RANKING, "--top-k", 25, "--tasks", "fashion,mnist"]
    out = recon("split", "resnet18.safetensors", *arguments, "-o", "b.safetensors").succeeds().out
    for words in ("42.81 MB", "43.43 MB", "1.43% of the shared ones"):
        assert words in out
    sizes = Manifest.read(Path("b.manifest.json")).sizes
    assert sizes.shared_parameters == 11_221_540
    assert f"{sizes.before.parameter_bytes / 2**20:.2f}" == "42.81"
    assert f"{sizes.after.parameter_bytes / 2**20:.2f}" == "43.43"
    branched = {key: value for key, value in load_file("b.safetensors").items() if "running" not in key}
    # All 20 BatchNorms are among the 25 layers, and each copy has a counter besides its parameters.
    assert sum(value.numel() for value in branched.values()) == sizes.after.parameters + 2 * 20


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_branched_file_is_what_plain_torch_makes(recon, ranking, checkpoint, suffix):
    state = load_file(checkpoint)
    source = Path(f"source{suffix}")
    if suffix == ".pt":
        torch.save(state, source)
    else:
        source.write_bytes(checkpoint.read_bytes())
    recon("split", source, "--ranking", ranking, "--top-k", 2, "-o", "b.safetensors").succeeds()
    layers = [layer["name"] for layer in json.loads(ranking.read_text())["layers"][:2]]
    assert_same(load_file("b.safetensors"), expected_of(state, layers))
    recon("verify", "b.safetensors", "--source", source).succeeds()


def test_the_manifest_says_where_everything_went_and_proves_it(recon, checkpoint):
    recon("split", checkpoint, "--layers", "norm,conv", *TASKS, "-o", "b.safetensors").succeeds()
    manifest = Manifest.read(Path("b.manifest.json"))
    state, branched = load_file(checkpoint), load_file("b.safetensors")
    assert manifest.tasks == ("left", "right")
    assert [layer.name for layer in manifest.layers] == ["norm", "conv"]
    assert {record.key for record in manifest.tensors} == set(state)
    for record in manifest.tensors:
        data = bytes(state[record.key].contiguous().view(-1).view(torch.uint8).tolist())
        assert record.digest == "blake3:" + blake3(data).hexdigest()
        assert all(torch.equal(branched[place], state[record.key]) for place in record.places)
    assert manifest.source.name == checkpoint.name
    assert (manifest.selection.policy, manifest.selection.argument) == ("layers", "norm,conv")
    with safe_open("b.safetensors", "pt") as file:
        inside = json.loads(file.metadata()["recon.manifest"])
    assert inside == json.loads(Path("b.manifest.json").read_text())


def test_the_same_inputs_give_the_same_bytes(recon, ranking, checkpoint):
    for name in ("one", "two"):
        recon("split", checkpoint, "--ranking", ranking, "--top-k", 2, "-o", f"{name}.safetensors").succeeds()
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()
    assert Path("one.manifest.json").read_bytes() == Path("two.manifest.json").read_bytes()


def test_metadata_of_the_source_is_kept(recon, checkpoint):
    save_file(load_file(checkpoint), "tagged.safetensors", {"epoch": "7"})
    recon("split", "tagged.safetensors", "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    with safe_open("b.safetensors", "pt") as file:
        assert file.metadata()["epoch"] == "7"


def test_a_dry_run_writes_nothing_and_shows_the_same(recon, ranking, checkpoint):
    arguments = ["split", checkpoint, "--ranking", ranking, "--top-k", 2]
    before = sorted(Path().iterdir())
    dry = recon(*arguments, "--dry-run").succeeds()
    plan = recon(*arguments, "--dry-run", "--json").succeeds().document
    assert sorted(Path().iterdir()) == before
    assert recon(*arguments, "-o", "b.safetensors").succeeds().out == dry.out
    manifest = json.loads(Path("b.manifest.json").read_text())
    assert plan["schema"] == "recon.plan/1"
    assert {key: plan[key] for key in ("tasks", "layers", "sizes", "selection")} == {
        key: manifest[key] for key in ("tasks", "layers", "sizes", "selection")
    }


def test_a_checkpoint_is_selected_from_in_every_way(recon, ranking, checkpoint):
    layers = json.loads(ranking.read_text())["layers"]

    def chosen(*arguments: object) -> list[str]:
        document = recon("split", checkpoint, *arguments, "--dry-run", "--json").succeeds().document
        return [layer["name"] for layer in document["layers"]]

    names = [layer["name"] for layer in layers]
    assert chosen("--ranking", ranking, "--top-k", 3) == names[:3]
    score = layers[1]["score"]
    assert chosen("--ranking", ranking, "--min-score", score) == [x["name"] for x in layers if x["score"] >= score]
    assert chosen("--layers", "body.2", *TASKS) == ["body.2"]
    total = 4 * 9 + 4 + 8 + 30 + 42 + 21 + 21
    for budget in ("30%", str(0.3 * total), f"{0.3 * total * 4}B"):
        limit, expected = 0.3 * total, []
        for layer in layers:
            if layer["size"] <= limit and layer["score"] > 0:
                expected.append(layer["name"])
                limit -= layer["size"]
        assert chosen("--ranking", ranking, "--budget", budget) == expected
    assert "stdin" not in recon("split", checkpoint, "--ranking", "-", "--top-k", 1, "--dry-run",
                                stdin=ranking.read_text()).succeeds().err  # fmt: skip


def names_of(result) -> list[str]:
    return [layer["name"] for layer in result.succeeds().document["layers"]]


def test_the_order_of_the_network_comes_from_the_profile(recon, ranking, checkpoint):
    # The file's own order would be that of the names.
    save_file(load_file(checkpoint), "sorted.safetensors")
    split = ["split", "sorted.safetensors", "--ranking", ranking, "--dry-run", "--json"]
    assert names_of(recon(*split, "--first-k", 2)) == ["conv", "norm"]
    assert names_of(recon(*split, "--last-k", 2)) == ["body.0", "body.2"]


def test_without_a_profile_it_comes_from_the_checkpoint_if_that_has_kept_it(recon):
    state = {f"{name}.weight": torch.zeros(2) for name in ("stem", "body", "neck")}
    torch.save(state, "model.pt")
    save_state_dict(state, Path("kept.safetensors"))
    save_file(state, "sorted.safetensors")
    Path("plain.json").write_text('{"body": 3, "neck": 2, "stem": 1}')
    arguments = ["--ranking", "plain.json", *TASKS, "--first-k", 1, "--dry-run", "--json"]
    assert names_of(recon("split", "model.pt", *arguments)) == ["stem"]
    assert names_of(recon("split", "kept.safetensors", *arguments)) == ["stem"]
    recon("split", "sorted.safetensors", *arguments).refuses("order of the network's layers is not known")


def test_random_layers_are_repeated_by_their_seed(recon, ranking, checkpoint):
    split = ["split", checkpoint, "--ranking", ranking, "--dry-run", "--json", "--random-layers", 2]
    drawn = [tuple(names_of(recon(*split, "--seed", seed))) for seed in range(12)]
    assert drawn == [tuple(names_of(recon(*split, "--seed", seed))) for seed in range(12)]
    assert len(set(drawn)) > 1
    assert all(len(set(chosen)) == 2 for chosen in drawn)
    assert tuple(names_of(recon(*split))) == drawn[0]
    selection = recon(*split, "--seed", 5).document["selection"]
    assert (selection["policy"], selection["argument"], selection["seed"]) == ("random-layers", "2", 5)


def test_random_parameters_say_how_well_they_match(recon):
    torch.manual_seed(0)
    save_state_dict(resnet18().state_dict(), Path("resnet18.safetensors"))
    arguments = ["--ranking", AUTHORS_RANKING, "--random-parameters", 25, *TASKS, "--dry-run", "--json"]
    result = recon("split", "resnet18.safetensors", *arguments).succeeds()
    sizes = result.document["sizes"]
    assert sizes["wanted_parameters"] == 160_192
    assert abs(sizes["split_parameters"] - 160_192) <= 160
    assert f"random layers have {sizes['split_parameters']:,} parameters; 160,192 were wanted" in result.err
    assert recon("split", "resnet18.safetensors", "--ranking", AUTHORS_RANKING, "--top-k", 25, *TASKS, "--dry-run",
                 "--json").succeeds().document["sizes"]["wanted_parameters"] is None  # fmt: skip


MODULES = {
    ("--top-k", 2): ["stem", "block.0.conv", "block.0.norm"],
    ("--min-score", 6): ["stem", "block.0.conv", "block.0.norm"],
    ("--budget", 5): ["block.0.conv", "block.0.norm"],
    ("--layers", "block.0"): ["block.0.conv", "block.0.norm"],
    ("--first-k", 1): ["block.1.conv", "block.1.norm"],
    ("--last-k", 2): ["stem", "block.0.conv", "block.0.norm"],
    ("--random-parameters", 2): None,
    ("--random-layers", 1): None,
}


@pytest.mark.parametrize("policy", MODULES)
def test_modules_are_split_as_a_whole(recon, policy):
    sizes = {"block.1.norm": 2, "block.1.conv": 30, "stem": 7, "block.0.norm": 2, "block.0.conv": 3}
    torch.save({f"{name}.weight": torch.zeros(size) for name, size in sizes.items()}, "model.pt")
    scores = {"stem": 10, "block.0.conv": 9, "block.0.norm": 5, "block.1.conv": 4, "block.1.norm": 1}
    Path("plain.json").write_text(json.dumps(scores))
    arguments = ["split", "model.pt", "--ranking", "plain.json", *policy, "--granularity", "module", *TASKS]
    manifest = recon(*arguments, "-o", "b.safetensors", "--json").succeeds().document
    chosen = [layer["name"] for layer in manifest["layers"]]
    assert manifest["selection"]["granularity"] == "module"
    for block in ("block.0", "block.1"):
        assert (f"{block}.conv" in chosen) == (f"{block}.norm" in chosen)
    assert MODULES[policy] in (None, chosen)
    assert_same(load_file("b.safetensors"), expected_of(torch.load("model.pt", weights_only=True), chosen))
    recon("verify", "b.safetensors", "--source", "model.pt").succeeds()


def test_modules_are_named_without_a_ranking(recon, checkpoint):
    arguments = ["split", checkpoint, *TASKS, "--granularity", "module", "--dry-run", "--json", "--layers"]
    assert names_of(recon(*arguments, "body,conv")) == ["body.0", "body.2", "conv"]
    recon(*arguments, "boby").refuses("no module `boby` holds layers that can be split", "did you mean `body`?")


def test_layers_without_conflicts_are_pointed_out(recon, checkpoint):
    Path("r.json").write_text('{"conv": 3, "norm": 0, "body.0": 0, "body.2": 0}')
    arguments = ["split", checkpoint, "--ranking", "r.json", "--top-k", 2, *TASKS, "--dry-run"]
    err = recon(*arguments).succeeds().err
    assert "1 split layer without conflicts: `norm`" in err
    assert "does not know `heads.left`, `heads.right`; kept as they are" in err
    assert recon(*arguments, "--quiet").succeeds() == type(recon("--version"))(0, "", "")


def test_tied_layers_are_split_together_or_refused(recon):
    torch.manual_seed(0)
    torch.save(networks.Tied().state_dict(), "tied.pt")
    tasks = ("--tasks", "word,kind")
    recon("split", "tied.pt", "--layers", "embed", *tasks, "-o", "b.safetensors").refuses(
        "`embed.weight`, `decode.weight` are tied"
    )
    recon("split", "tied.pt", "--layers", "embed,decode", *tasks, "-o", "b.safetensors").succeeds()
    sizes = Manifest.read(Path("b.manifest.json")).sizes
    assert sizes.before.parameters == sum(p.numel() for p in networks.Tied().parameters())
    assert sizes.after.parameters == sizes.before.parameters + 25
    assert set(load_file("b.safetensors")) >= {"embed.tasks.word.weight", "decode.tasks.kind.weight"}


REFUSED = {
    "no selection": ([], "0 ways to choose the layers"),
    "two selections": (["--top-k", "1", "--layers", "conv"], "2 ways to choose the layers"),
    "a seed for nothing": (["--layers", "conv", "--seed", "1"], "--seed is given, but --layers draws nothing"),
    "no output": (["--layers", "conv", *TASKS], "no output is named"),
    "no ranking": (["--top-k", "1", *TASKS, "-o", "b.safetensors"], "no ranking to choose the layers from"),
    "no tasks": (["--layers", "conv", "-o", "b.safetensors"], "no tasks are named"),
    "one task": (["--layers", "conv", "--tasks", "a", "-o", "b.safetensors"], "1 task named"),
    "a task twice": (["--layers", "conv", "--tasks", "a,a", "-o", "b.safetensors"], "`a` is named twice"),
    "an empty task": (["--layers", "conv", "--tasks", "a,", "-o", "b.safetensors"], "a task's name is empty"),
    "a dot": (["--layers", "conv", "--tasks", "a.b,c", "-o", "b.safetensors"], "`a.b` holds a dot"),
    "a slash": (["--layers", "conv", "--tasks", "a/b,c", "-o", "b.safetensors"], "`a/b` holds a slash"),
    "a control character": (
        ["--layers", "conv", "--tasks", "a\x1b[31m,c", "-o", "b.safetensors"],
        "`a\\x1b[31m` holds a control",
    ),
    "an unknown layer": (["--layers", "convv", *TASKS, "-o", "b.safetensors"], "did you mean `conv`?"),
    "a layer twice": (["--layers", "conv,conv", *TASKS, "-o", "b.safetensors"], "names `conv` twice"),
    "a torch file in shards": (["--layers", "conv", *TASKS, "-o", "b.pt", "--shard-size", "1MB"], "`b.safetensors`"),
    "no size": (
        ["--layers", "conv", *TASKS, "-o", "b.safetensors", "--shard-size", "x"],
        "--shard-size: `x` is no size",
    ),
    "a missing folder": (["--layers", "conv", *TASKS, "-o", "none/b.safetensors"], "folder `none` does not exist"),
    "output is input": (["--layers", "conv", *TASKS, "-o", "model.safetensors", "--force"], "is the input"),
    "output exists": (["--layers", "conv", *TASKS, "-o", "there.safetensors"], "`there.safetensors` exists already"),
    "manifest exists": (["--layers", "conv", *TASKS, "-o", "taken.safetensors"], "`taken.manifest.json` exists"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_use_is_refused_and_leaves_nothing(recon, checkpoint, kind):
    Path("there.safetensors").write_text("mine")
    Path("taken.manifest.json").write_text("mine")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    arguments, words = REFUSED[kind]
    recon("split", checkpoint.name, *arguments).refuses(words)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


WITH_RANKING = {
    "k too large": (["--top-k", "5"], "--top-k 5 is out of range: the ranking holds 4 layers"),
    "k zero": (["--top-k", "0"], "--top-k 0 is out of range"),
    "too many at random": (["--random-layers", "5"], "--random-layers 5 is out of range: the ranking holds 4 layers"),
    "too many modules": (["--first-k", "4", "--granularity", "module"], "the ranking holds 3 modules"),
    "a score nobody has": (["--min-score", "1000"], "no layer has a score of 1000"),
    "a small budget": (["--budget", "1"], "the budget is too small"),
    "a budget that is none": (["--budget", "lots"], "the budget `lots` is neither"),
    "other tasks": (["--top-k", "1", "--tasks", "up,down"], "--tasks names `up`, `down`, but the ranking is of"),
}


@pytest.mark.parametrize("kind", WITH_RANKING)
def test_wrong_use_of_a_ranking_is_refused(recon, ranking, checkpoint, kind):
    arguments, words = WITH_RANKING[kind]
    recon("split", checkpoint, "--ranking", ranking, *arguments, "-o", "b.safetensors").refuses(words)
    assert not list(Path().glob("b.*"))


def test_a_ranking_of_another_model_is_refused(recon, ranking, checkpoint):
    recon("split", checkpoint, "--ranking", AUTHORS_RANKING, "--top-k", 1, *TASKS, "-o", "b.safetensors").refuses(
        "lacks 41 of the ranking's 41 layers", "`bn1`"
    )
    larger = {**load_file(checkpoint), "extra.weight": torch.zeros(3), "clock": torch.tensor(3)}
    save_state_dict(larger, Path("larger.safetensors"))
    recon("split", "larger.safetensors", "--ranking", ranking, "--top-k", 1, "-o", "b.safetensors").refuses(
        "has 1 layer that the profiled model has not: `extra`"
    )


def test_a_name_that_is_taken_is_refused(recon):
    save_state_dict({"w": torch.zeros(1), "w.tasks.a": torch.zeros(1)}, Path("x.safetensors"))
    recon("split", "x.safetensors", "--layers", "w", "--tasks", "a,b", "-o", "b.safetensors").refuses("`w.tasks.a`")


def test_a_branched_checkpoint_is_not_split_again(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    recon("split", "b.safetensors", "--layers", "norm", *TASKS, "-o", "c.safetensors").refuses("is branched already")


def test_layer_names_cannot_move_the_terminal(recon):
    save_state_dict({"a\x1b[31m[bold].w": torch.zeros(1)}, Path("x.safetensors"))
    arguments = ["split", "x.safetensors", "--layers", "a\x1b[31m[bold]", "--tasks", "a,b", "-o", "b.safetensors"]
    out = recon(*arguments).succeeds().out
    assert "\x1b" not in out
    assert "a\\x1b[31m[bold]" in out


def test_a_tampered_file_fails_the_check(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    state = load_file("b.safetensors")
    manifest = ("--manifest", "b.manifest.json")
    for change, words in (
        (lambda s: s["conv.tasks.left.bias"].add_(1), "`conv.tasks.left.bias` of the branched checkpoint has other"),
        (lambda s: s.pop("norm.bias"), "`norm.bias` of the branched checkpoint is missing"),
        (lambda s: s.update(more=torch.zeros(1)), "`more` of the branched checkpoint is not in the manifest"),
        (lambda s: s.update({"norm.bias": s["norm.bias"].double()}), "is F64 [4], but the manifest says F32 [4]"),
    ):  # fmt: skip
        changed = {key: value.clone() for key, value in state.items()}
        change(changed)
        save_state_dict(changed, Path("changed.safetensors"), overwrite=True)
        result = recon("verify", "changed.safetensors", "--source", checkpoint, *manifest)
        assert result.code == 1
        assert words in result.out
        found = recon("verify", "changed.safetensors", "--source", checkpoint, *manifest, "--json")
        assert found.code == 1
        assert found.document["passed"] is False
    recon("verify", "changed.safetensors", "--source", checkpoint).refuses("carries no manifest")
    save_state_dict({**load_file(checkpoint), "conv.bias": torch.ones(4)}, Path("other.safetensors"))
    result = recon("verify", "b.safetensors", "--source", "other.safetensors")
    assert "`conv.bias` of the source has other values" in result.out


def test_a_manifest_that_contradicts_itself_is_refused(recon, checkpoint):
    recon("split", checkpoint, "--layers", "conv", *TASKS, "-o", "b.safetensors").succeeds()
    content = json.loads(Path("b.manifest.json").read_text())
    for change, words in (
        (lambda c: c["layers"].clear(), "no layer is split"),
        (lambda c: c["layers"][0]["branches"].pop(), "no partition of the tasks"),
        (lambda c: c["tensors"].append(c["tensors"][0]), "a tensor is named twice"),
        (lambda c: c["layers"].append(c["layers"][0]), "a layer or a task is named twice"),
    ):
        changed = json.loads(json.dumps(content))
        change(changed)
        Path("m.json").write_text(json.dumps(changed))
        recon("verify", "b.safetensors", "--source", checkpoint, "--manifest", "m.json").refuses("`m.json`", words)
