"""Checkpoints of several files: read by their index, written so that others read them, refused where the index lies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.sharded_safetensors import Shards
from recon_cli.errors import ReconError
from tests.checkpoints.reading import bytes_of

STATE = {
    "a.weight": torch.randn(3, 4),
    "a.bias": torch.randn(4, dtype=torch.float64),
    "b.weight": torch.randn(5, 2).to(torch.bfloat16),
    "b.empty": torch.zeros(0, 3),
    "b.count": torch.tensor(7),
}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def index(tmp_path) -> Path:
    """A checkpoint of two files."""
    for name, keys in {FIRST: ["a.weight", "a.bias"], SECOND: ["b.weight", "b.empty", "b.count"]}.items():
        save_file({key: STATE[key] for key in keys}, tmp_path / name, metadata={"format": "pt", "file": name})
    write_index(tmp_path / INDEX, {key: FIRST if key.startswith("a") else SECOND for key in STATE})
    return tmp_path / INDEX


def write_index(path: Path, weight_map: object, **metadata: object) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 1, **metadata}, "weight_map": weight_map}))


def loaded(folder: Path, index: Path) -> dict[str, torch.Tensor]:
    """What a checkpoint of several files holds, as any user of the index reads it."""
    weight_map = json.loads(index.read_text())["weight_map"]
    files = {name: load_file(folder / name) for name in set(weight_map.values())}
    return {key: files[name][key] for key, name in weight_map.items()}


def test_the_tensors_of_all_files_are_one_checkpoint(index):
    with open_checkpoint(index) as source:
        assert source.FORMAT == "safetensors"
        assert source.metadata == {"format": "pt"}
        for tensor in source.tensors:
            value = STATE[tensor.key]
            assert tensor.shape == tuple(value.shape)
            raw = value.contiguous().view(-1).view(torch.uint8) if value.numel() else torch.zeros(0, dtype=torch.uint8)
            assert bytes_of(tensor) == bytes(raw.tolist())
        assert {tensor.key for tensor in source.tensors} == set(STATE)


@pytest.mark.parametrize("limit", [1, 50, 72, 10_000])
def test_what_is_written_in_shards_is_read_by_others_and_by_us(index, tmp_path, limit):
    folder = tmp_path / "out"
    folder.mkdir()
    with open_checkpoint(index) as source:
        places = {t.key: ("x." + t.key, "y." + t.key) if t.key == "a.weight" else (t.key,) for t in source.tensors}
        shards = Shards(folder / "new.safetensors", source, places, limit)
        descriptors = [os.open(path, os.O_RDWR | os.O_CREAT) for path in shards.paths]
        shards.write(descriptors, {"format": "pt"}, lambda digests: {"note": digests["b.count"]})
        for descriptor in descriptors:
            os.close(descriptor)
        assert shards.sizes({"format": "pt"}) == [path.stat().st_size for path in shards.paths[:-1]]
        assert all(layout.bytes <= max(limit, 48) for layout in shards._layouts)
    state = loaded(folder, folder / "new.safetensors.index.json")
    assert set(state) == (set(STATE) - {"a.weight"}) | {"x.a.weight", "y.a.weight"}
    for key, value in state.items():
        assert torch.equal(value, STATE[key.removeprefix("x.").removeprefix("y.")])
        assert value.dtype == STATE[key.removeprefix("x.").removeprefix("y.")].dtype
    with open_checkpoint(folder / "new.safetensors.index.json") as again:
        assert {tensor.key for tensor in again.tensors} == set(state)
        assert again.metadata["note"].startswith("blake3:")


def without_a_map(index):
    index.write_text('{"metadata": {}}')


def a_number_for_a_file(index):
    write_index(index, {"a.weight": 3})


def no_tensors(index):
    write_index(index, {})


def names(shard):
    def change(index):
        write_index(index, dict.fromkeys(STATE, shard))

    return change


def out_by_a_link(index):
    outside = index.parent.parent / "outside.safetensors"
    (index.parent / FIRST).rename(outside)
    (index.parent / FIRST).symlink_to(outside)


def a_missing_file(index):
    (index.parent / SECOND).unlink()


def a_tensor_too_many(index):
    save_file({"b.weight": torch.ones(1), "c": torch.ones(1)}, index.parent / SECOND)
    write_index(index, {"a.weight": FIRST, "a.bias": FIRST, "b.weight": SECOND})


def a_tensor_too_few(index):
    write_index(index, {key: FIRST if key.startswith("a") else SECOND for key in [*STATE, "b.more"]})


def a_tensor_twice(index):
    save_file({"a.weight": STATE["a.weight"], "b.weight": STATE["b.weight"]}, index.parent / SECOND)


def by_case(index):
    write_index(index, {"a.weight": FIRST, "b.weight": FIRST.upper()})


def itself(index):
    write_index(index, {"a.weight": INDEX})


LIES = [
    (without_a_map, "is no index of shards"),
    (a_number_for_a_file, "is no index of shards"),
    (no_tensors, "names no tensors"),
    (names("../outside.safetensors"), "is not inside its folder"),
    (names("sub/../../outside.safetensors"), "is not inside its folder"),
    (names("/etc/passwd"), "is not inside its folder"),
    (names("..\\outside.safetensors"), "is not inside its folder"),
    (names(""), "is not inside its folder"),
    (names("a\0b"), "is not inside its folder"),
    (names("."), "is a folder"),
    (out_by_a_link, "is a link out of the folder"),
    (a_missing_file, "there is no checkpoint"),
    (a_tensor_too_many, "hold tensors that it does not name: `c`"),
    (a_tensor_too_few, "its files lack: `b.more`"),
    (a_tensor_twice, "`a.weight` is in two shards"),
    (by_case, "differ by case alone"),
    (itself, "is neither a safetensors file nor"),
]


@pytest.mark.parametrize(("change", "words"), LIES)
def test_an_index_that_lies_is_refused_for_it(index, change, words):
    change(index)
    with pytest.raises(ReconError) as caught:
        open_checkpoint(index)
    assert words in caught.value.message


def test_the_layout_of_the_hubs_cache_is_read(index, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate([index, index.parent / FIRST, index.parent / SECOND]):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    with open_checkpoint(snapshot / INDEX) as source:
        assert len(source.tensors) == len(STATE)
