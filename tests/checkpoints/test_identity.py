"""What tells one checkpoint from another: all of its files, whatever its kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint as distributed

from recon_cli.artifacts.digests import digest_file
from recon_cli.checkpoints.identity import checkpoint_digest
from recon_cli.errors import ReconError

SHARDS = {"model-1.safetensors": "a.weight", "model-2.safetensors": "b.weight"}


def write_shards(folder: Path, value: float) -> Path:
    folder.mkdir(exist_ok=True)
    for name, key in SHARDS.items():
        save_file({key: torch.full((2,), value)}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {key: name for name, key in SHARDS.items()}}))
    return index


def test_that_of_a_file_is_the_files_by_itself_and_in_a_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2)}, file)
    assert checkpoint_digest(file) == checkpoint_digest(tmp_path) == digest_file(file)


def test_another_shard_under_the_same_index_is_another_checkpoint(tmp_path):
    index = write_shards(tmp_path / "a", 1.0)
    before = checkpoint_digest(index)
    assert before == checkpoint_digest(index.parent) == checkpoint_digest(write_shards(tmp_path / "b", 1.0))
    write_shards(tmp_path / "a", 2.0)
    assert checkpoint_digest(index) != before


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_is_all_of_its_folder(tmp_path):
    distributed.save({"a": torch.ones(3)}, checkpoint_id=tmp_path / "saved", no_dist=True)
    shutil.copytree(tmp_path / "saved", tmp_path / "copied")
    assert checkpoint_digest(tmp_path / "saved") == checkpoint_digest(tmp_path / "copied")
    next((tmp_path / "copied").glob("*.distcp")).write_bytes(b"another")
    assert checkpoint_digest(tmp_path / "saved") != checkpoint_digest(tmp_path / "copied")


@pytest.mark.parametrize("missing", ["model-2.safetensors", "model.safetensors.index.json"])
def test_a_file_that_is_not_there_is_named(tmp_path, missing):
    index = write_shards(tmp_path, 1.0)
    (tmp_path / missing).unlink()
    with pytest.raises(ReconError, match=missing.replace(".", r"\.")):
        checkpoint_digest(index)
