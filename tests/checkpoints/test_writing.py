"""Whatever form tensors are written in, others read the same from it, and the same inputs give the same bytes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from recon_cli.checkpoints.memory_source import TensorSource
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.state_dict import read_state_dict
from recon_cli.checkpoints.writing import Carried, CheckpointWriter, flat_writer
from recon_cli.errors import ReconError

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


def write(writer: CheckpointWriter) -> None:
    descriptors = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for path in writer.paths]
    writer.write(descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    assert sum(path.stat().st_size for path in writer.paths) == writer.bytes()


def bits(value: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    raw = value.detach().clone(memory_format=torch.contiguous_format).view(-1)
    return value.dtype, tuple(value.shape), bytes(raw.view(torch.uint8).tolist()) if raw.numel() else b""


@st.composite
def states(draw):
    keys = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    state = {}
    for key in keys:
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = torch.zeros(shape, dtype=dtype).nbytes
        raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), generator=generator, dtype=torch.uint8)
        value = raw.view(dtype).view(shape) if size else torch.zeros(shape, dtype=dtype)
        state[key] = value.t() if value.ndim == 2 and draw(st.booleans()) else value
    copies = draw(st.sampled_from(list(state))) if state else None
    return state, {key: (f"{key}.1", f"{key}.2") if key == copies else (key,) for key in state}


@settings(max_examples=50)
@given(states(), st.sampled_from(["x.safetensors", "x.pt"]))
def test_tensors_arrive_bit_for_bit_under_all_their_names(tmp_path_factory, state_and_places, name):
    state, places = state_and_places
    path = tmp_path_factory.mktemp("out") / name
    with TensorSource(state, "a state dict") as source:
        if name == "x.safetensors" and "__metadata__" in {n for names in places.values() for n in names}:
            return
        write(flat_writer(path, source, places))
    expected = {name: bits(state[key]) for key, names in places.items() for name in names}
    loads = [load_file] if name == "x.safetensors" else [
        lambda file: torch.load(file, weights_only=True),
        lambda file: torch.load(file, weights_only=True, mmap=True),
    ]  # fmt: skip
    for load in loads:
        found = load(path)
        assert {key: bits(value) for key, value in found.items()} == expected
    if state:
        assert {key: bits(value) for key, value in read_state_dict(path).items()} == expected


def test_what_is_tied_stays_tied_in_a_torch_file_and_copies_are_apart(tmp_path):
    weight = torch.randn(3)
    state = {"a": weight, "b": weight, "c": torch.randn(2)}
    places = {"a": ("a.1", "a.2"), "b": ("b.1", "b.2"), "c": ("c",)}
    with TensorSource(state, "a state dict") as source:
        write(flat_writer(tmp_path / "x.pt", source, places))
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    where = {key: value.untyped_storage().data_ptr() for key, value in found.items()}
    assert where["a.1"] == where["b.1"] != where["a.2"] == where["b.2"]
    with open_checkpoint(tmp_path / "x.pt") as again:
        assert dict(again.ties) == {"b.1": "a.1", "b.2": "a.2"}


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_a_text_is_carried_and_the_same_input_gives_the_same_bytes(tmp_path, name):
    state = {"a": torch.randn(3), "b": torch.randn(2, 2).t()}
    content = []
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
        with TensorSource(state, "a state dict") as source:
            carried = Carried("recon.test", lambda digests: f"digest {digests['a']}")
            write(flat_writer(tmp_path / folder / name, source, {"a": ("a",), "b": ("b",)}, carried=carried))
        content.append((tmp_path / folder / name).read_bytes())
    assert content[0] == content[1]
    assert b"digest blake3:" in content[0] and b"blake3:" + b"0" * 64 not in content[0]


def test_what_a_format_does_not_have_is_refused_by_name(tmp_path):
    for value, name, words in (
        (torch.zeros(1, dtype=torch.complex128), "x.safetensors", "`w` has the type C128, which safetensors"),
    ):
        with TensorSource({"w": value}, "it") as source, pytest.raises(ReconError, match=words):
            flat_writer(tmp_path / name, source, {"w": ("w",)}).bytes()
    with TensorSource({"w": torch.zeros(2, dtype=torch.complex128)}, "it") as source:
        write(flat_writer(tmp_path / "x.pt", source, {"w": ("w",)}))
    assert torch.load(tmp_path / "x.pt", weights_only=True)["w"].dtype == torch.complex128


def test_a_torch_file_is_an_archive_that_others_check(tmp_path):
    with TensorSource({"w": torch.randn(1000)}, "it") as source:
        write(flat_writer(tmp_path / "x.pt", source, {"w": ("w", "v")}))
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"archive/{n}" for n in ("data.pkl", "byteorder", "data/0", "data/1", "version")]


def test_a_checkpoint_is_divided_only_if_it_is_larger_than_a_shard(tmp_path):
    state = {"a": torch.randn(100), "b": torch.randn(100)}
    with TensorSource(state, "it") as source:
        for size, count in ((799, 3), (800, 1), (None, 1), (1, 3)):
            writer = flat_writer(Path("x.safetensors"), source, {"a": ("a",), "b": ("b",)}, shard_size=size)
            assert len(writer.paths) == count
