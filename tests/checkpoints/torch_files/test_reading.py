"""State dicts in the files of `torch.save`, and what is no state dict."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from recon_cli.checkpoints.sniffing import sniff_format
from recon_cli.checkpoints.state_dict import load_into, read_state_dict
from recon_cli.errors import ReconError
from tests import networks


class Hostile:
    def __reduce__(self):
        return (os.system, ("touch owned",))


def test_zip_and_legacy_files_are_read(tmp_path):
    state = networks.two_tasks().state_dict()
    for name, zipped in (("zip.bin", True), ("legacy.weights", False)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert sniff_format(tmp_path / name) == "torch"
        found = read_state_dict(tmp_path / name)
        assert list(found) == list(state)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_the_kind_of_a_file_is_told_by_its_content_not_its_name(tmp_path, checkpoint):
    renamed = tmp_path / "weights.pt"
    renamed.write_bytes(checkpoint.read_bytes())
    assert sniff_format(renamed) == "safetensors"
    assert list(read_state_dict(renamed))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(recon, zipped):
    torch.save({"w": torch.zeros(1), "x": Hostile()}, "bad.pt", _use_new_zipfile_serialization=zipped)
    result = recon("split", "bad.pt", "--layers", "w", "--tasks", "a,b", "-o", "b.safetensors")
    result.refuses("`x` of `bad.pt` is a `posix.system`", "is not opened", "state_dict()")
    assert "weights_only=False" not in result.err
    assert sorted(Path().iterdir()) == [Path("bad.pt")]


def write_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": [1.0]}))


CONTENTS = {
    "missing": (lambda _: None, "there is no checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "folder": (lambda path: path.mkdir(), "holds no checkpoint"),
    "text": (lambda path: path.write_text("hello, weights"), "neither a safetensors file nor"),
    "truncated": (
        lambda path: (torch.save({"w": torch.zeros(1000)}, path), os.truncate(path, 1000)),
        "is cut off or damaged",
    ),
    "plain pickle": (write_plain_pickle, "but not one that `torch.save` wrote"),
    "a tensor": (lambda path: torch.save(torch.zeros(2), path), "holds no state dict"),
    "nothing in it": (lambda path: torch.save({}, path), "holds no state dict"),
    "a whole model": (lambda path: torch.save(networks.two_tasks(), path), "is a `tests.networks."),
    "several": (
        lambda path: torch.save({"g": {"w": torch.zeros(2)}, "d": {"w": torch.zeros(2)}}, path),
        "holds several state dicts: `g`, `d`",
    ),
    "a key of another kind": (lambda path: torch.save({1: torch.zeros(2)}, path), "holds no state dict"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_is_no_state_dict_is_refused(recon, kind):
    make, words = CONTENTS[kind]
    make(Path("x.pt"))
    before = sorted(Path().iterdir())
    recon("split", "x.pt", "--layers", "w", "--tasks", "a,b", "-o", "b.safetensors").refuses("`x.pt`", words)
    assert sorted(Path().iterdir()) == before


def test_a_checkpoint_that_does_not_fit_a_model_says_where(tmp_path):
    state = networks.two_tasks().state_dict()
    for change, words in (
        (lambda s: s.pop("conv.weight"), "it lacks `conv.weight`"),
        (lambda s: s.update(more=torch.zeros(1)), "the model has no `more`"),
        (lambda s: s.update({"conv.bias": torch.zeros(9)}), r"`conv.bias` has the shape \(9,\), the model's \(4,\)"),
    ):
        changed = dict(state)
        change(changed)
        torch.save(changed, tmp_path / "x.pt")
        with pytest.raises(ReconError, match=words):
            load_into(networks.two_tasks(), tmp_path / "x.pt")


def test_a_checkpoint_of_a_wrapped_model_is_loaded_into_the_bare_one(tmp_path):
    state = networks.two_tasks().state_dict()
    torch.save({f"module._orig_mod.{key}": value + 1 for key, value in state.items()}, tmp_path / "x.pt")
    model = networks.two_tasks()
    load_into(model, tmp_path / "x.pt")
    assert all(torch.equal(value, state[key] + 1) for key, value in model.state_dict().items())
