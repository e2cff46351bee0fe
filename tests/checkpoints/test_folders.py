"""Folders as the argument, and checkpoints of several torch files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.prefixes import wrapper_prefix
from recon_cli.checkpoints.state_dict import read_state_dict
from recon_cli.errors import ReconError
from tests.checkpoints.as_process import check_split

WEIGHT = torch.randn(3, 4)
SHARDS = {
    "pytorch_model-00001-of-00002.bin": {"a.weight": WEIGHT, "a.tied": WEIGHT, "a.turned": torch.randn(2, 3).t()},
    "pytorch_model-00002-of-00002.bin": {"b.weight": WEIGHT.clone(), "b.half": torch.ones(2).bfloat16()},
}
STATE = {key: value for shard in SHARDS.values() for key, value in shard.items()}
INDEX = "pytorch_model.bin.index.json"


class Run:
    def __reduce__(self):
        return (os.system, ("touch owned",))


def write_shards(folder: Path, *, prefix: str = "", zipped: bool = True, more: object = None) -> Path:
    """A checkpoint of several torch files, as `save_pretrained(safe_serialization=False)` writes it."""
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for name, state in SHARDS.items():
        content = {prefix + key: value for key, value in state.items()}
        weight_map.update(dict.fromkeys(content, name))
        if more is not None:
            content["more"] = more
        torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return folder / INDEX


@pytest.mark.parametrize("zipped", [True, False])
def test_several_torch_files_are_one_checkpoint(tmp_path, zipped):
    index = write_shards(tmp_path / "m", zipped=zipped)
    found = read_state_dict(index)
    assert set(found) == set(STATE)
    assert all(torch.equal(found[key], value) for key, value in STATE.items())
    with open_checkpoint(index) as source:
        assert source.FORMAT == "torch"
        # Equal tensors in two files are two tensors.
        assert source.ties == {"a.tied": "a.weight"}


def test_the_prefix_of_wrappers_is_found_over_all_files(tmp_path):
    with open_checkpoint(write_shards(tmp_path / "m", prefix="module.")) as source:
        assert wrapper_prefix([tensor.key for tensor in source.tensors]) == "module."


def test_code_in_any_file_is_refused_and_not_run(recon):
    write_shards(Path("m"), more=Run())
    recon("split", "m", "--layers", "a", "--tasks", "x,y", "-o", "b.safetensors").refuses("`more` of", "system")
    assert not Path("owned").exists()


def as_index(folder: Path) -> None:
    write_shards(folder)


def as_safetensors(folder: Path) -> None:
    save_file({key: value.contiguous().clone() for key, value in STATE.items()}, folder / "model.safetensors")


def as_one_file(folder: Path) -> None:
    torch.save(STATE, folder / "pytorch_model.bin")


@pytest.mark.parametrize("write", [as_index, as_safetensors, as_one_file])
def test_the_checkpoint_in_a_folder_is_found(tmp_path, write):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    write(tmp_path / "m")
    found = read_state_dict(tmp_path / "m")
    assert all(torch.equal(found[key], value) for key, value in STATE.items())
    check_split(tmp_path / "m", STATE, "b", tmp_path / "o.safetensors")


def test_of_several_checkpoints_in_a_folder_one_has_to_be_named(recon):
    as_index(Path("m").absolute())
    as_one_file(Path("m"))
    result = recon("split", "m", "--layers", "b", "--tasks", "x,y", "-o", "b.safetensors")
    result.refuses("holds several checkpoints: `pytorch_model.bin`, `pytorch_model.bin.index.json`", "name the one")


def test_a_folder_without_a_checkpoint_is_refused(recon):
    Path("m").mkdir()
    recon("split", "m", "--layers", "b", "--tasks", "x,y", "-o", "b.safetensors").refuses("holds no checkpoint")
    with pytest.raises(ReconError, match="there is no checkpoint"):
        open_checkpoint(Path("n"))


def test_a_folder_may_be_a_link(tmp_path):
    as_index(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert set(read_state_dict(tmp_path / "link")) == set(STATE)
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(ReconError, match="there is no checkpoint"):
        open_checkpoint(tmp_path / "link")
