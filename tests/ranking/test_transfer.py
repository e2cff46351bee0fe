"""Rankings that are taken over to other datasets and networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.ranking import Ranking
from recon_cli.errors import ReconError
from recon_cli.ranking.transfer import Renaming, transfer
from tests import networks
from tests.conftest import AUTHORS_RANKING


def plain(**scores: float) -> Ranking:
    return Ranking.from_content({name.replace("__", "."): score for name, score in scores.items()}, "it")


@pytest.mark.parametrize(
    ("rule", "name", "renamed"),
    [
        ("encoder.*=backbone.*", "encoder.layer1.0.conv1", "backbone.layer1.0.conv1"),
        ("*=module.*", "conv1", "module.conv1"),
        ("module.*=*", "module.fc", "fc"),
        ("*.gamma=*.weight", "bn.gamma", "bn.weight"),
        ("fc=linear", "fc", "linear"),
        ("fc=linear", "fc1", None),
        ("a.b=c", "aXb", None),
    ],
)
def test_a_star_stands_for_the_same_text(rule, name, renamed):
    assert Renaming.parse(rule).applied(name) == renamed


def test_the_first_rule_that_fits_changes_a_name():
    found = transfer(plain(a__x=2, b__x=1), None, [Renaming("a.x", "c.x"), Renaming("*.x", "*.y")])
    assert found.ranking.names == ("c.x", "b.y")


def test_order_and_scores_stay_and_the_rest_is_the_other_networks(recon, ranking):
    other = Ranking.read(ranking)
    names = list(other.names)
    mine = Ranking.from_content({f"net.{name}": 10.0 - place for place, name in enumerate(reversed(names))}, "it")
    found = transfer(mine, other, [Renaming.parse("net.*=*")])
    assert found.ranking.names == tuple(reversed(names))
    assert [layer.score for layer in found.ranking.layers] == [10.0 - place for place in range(len(names))]
    by_name = {layer.name: layer for layer in other.layers}
    for layer in found.ranking.layers:
        assert (layer.size, layer.position) == (by_name[layer.name].size, by_name[layer.name].position)
    assert (found.ranking.tasks, found.ranking.flow) == (other.tasks, other.flow)
    assert (found.left_out, found.unplaced) == ((), ())


def test_layers_that_only_one_network_has_are_told_and_left_out(recon, ranking):
    names = Ranking.read(ranking).names
    Path("mine.json").write_text(json.dumps({names[1]: 3, "elsewhere": 2}))
    result = recon("transfer", "mine.json", "--to", ranking, "-o", "out.json").succeeds()
    assert "the other network has not `elsewhere`; left out" in result.err
    assert f"the ranking does not tell of `{names[0]}`" in result.err
    found = Ranking.read("out.json")
    assert found.names == (names[1],)
    assert found.layers[0].position == 1


def test_a_checkpoint_of_other_tasks_is_split_by_it(recon, scores):
    recon("rank", scores, "-S", "0", "-o", "ranking.json").succeeds()
    first = Ranking.read("ranking.json").names[0]
    state = {f"wrapped.{name}": tensor for name, tensor in networks.two_tasks().state_dict().items()}
    torch.save({**state, "other.weight": torch.zeros(2)}, "model.pt")
    options = ["--top-k", 1, "--ranking", "moved.json", "-o", "out.safetensors"]
    recon("transfer", "ranking.json", "--rename", "*=wrapped.*", "--tasks", "x,y,z", "-o", "moved.json").succeeds()
    recon("split", "model.pt", *options).succeeds()
    manifest = Manifest.read("out.manifest.json")
    assert manifest.tasks == ("x", "y", "z")
    assert [layer.name for layer in manifest.layers] == [f"wrapped.{first}"]


def test_scores_tell_what_the_other_network_is_as_well(recon, scores, ranking):
    recon("transfer", ranking, "--to", scores, "-o", "out.json").succeeds()
    assert Ranking.read("out.json").names == Ranking.read(ranking).names
    assert recon("compare-rankings", ranking, "out.json", "--json").succeeds().document["distance"][0][1] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rename", "nonsense"], "is not OLD=NEW"),
        (["--rename", "a.*=b"], "has not one `*` on both sides"),
        (["--rename", "a.*.*=b.*.*"], "has not one `*` on both sides"),
        (["--rename", "conv7=x"], "fits no layer of the ranking"),
        (["--rename", "conv1=bn1"], "the layers `bn1`, `conv1` would have one name, `bn1`"),
    ],
)
def test_wrong_names_are_refused(recon, options, words):
    recon("transfer", AUTHORS_RANKING, *options).refuses(words)


def test_another_network_is_refused(recon, ranking):
    recon("transfer", AUTHORS_RANKING, "--to", ranking).refuses("none of the ranking's layers", "--rename")
    recon("transfer", ranking, "--to", ranking, "--tasks", "a,b").refuses("--tasks is given beside --to")


def test_renamings_are_checked_in_the_library_too():
    with pytest.raises(ReconError, match="fits no layer"):
        transfer(plain(a=1), None, [Renaming("b", "c")])
