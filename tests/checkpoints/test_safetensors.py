"""The safetensors reader and writer, against literal bytes and against the safetensors library."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from recon_cli.checkpoints.memory_source import TensorSource
from recon_cli.checkpoints.safetensors_source import SafetensorsSource
from recon_cli.checkpoints.safetensors_writer import write_safetensors
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.errors import ReconError
from tests.checkpoints.reading import bytes_of

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64,
]  # fmt: skip


def file_of(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "shorter than the 8 bytes": b"abc",
    "claims 999 bytes, but the file has": file_of({}, length=999),
    "claims 100000001 bytes": file_of({}, length=100_000_001),
    "does not begin with `{`": file_of(b"[]"),
    "not valid JSON": file_of(b"{]"),
    "is not UTF-8": file_of(b"{\xff}"),
    "`a` stands twice": file_of(b'{"a":' + json.dumps(entry(0, 1, [1])).encode() + b',"a":1}', b"x"),
    "metadata is no mapping": file_of({"__metadata__": {"a": 1}}),
    "lacks its type, shape or offsets": file_of({"a": {"dtype": "U8"}}),
    "unknown type `X9`": file_of({"a": entry(0, 1, [1], "X9")}, b"x"),
    "is no list of counts": file_of({"a": entry(0, 1, [-1])}, b"x"),
    "no list of counts": file_of({"a": {**entry(0, 1, [1]), "shape": [True]}}, b"x"),
    "no pair of counts": file_of({"a": {**entry(0, 1, [1]), "data_offsets": [0]}}, b"x"),
    "takes 2 bytes, but its shape needs 1": file_of({"a": entry(0, 2, [1])}, b"xx"),
    "takes -1 bytes": file_of({"a": entry(1, 0, [1])}, b"x"),
    "`b` overlaps the one before": file_of({"a": entry(0, 2, [2]), "b": entry(1, 2, [1])}, b"xx"),
    "`b` leaves a gap": file_of({"a": entry(0, 1, [1]), "b": entry(2, 3, [1])}, b"xxx"),
    "describes 1 bytes of tensors, but 3 follow": file_of({"a": entry(0, 1, [1])}, b"xxx"),
    "describes 3 bytes of tensors, but 1 follow": file_of({"a": entry(0, 3, [3])}, b"x"),
    "the shape of tensor `a` is too large": file_of({"a": entry(0, 1, [2**63 - 1, 2**63 - 1])}, b"x"),
    "nested too deeply": file_of(b'{"a":' + b"[" * 100_000),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_file_that_is_broken_in_one_way_is_refused_for_it(tmp_path, words):
    (tmp_path / "x.safetensors").write_bytes(BROKEN[words])
    with pytest.raises(ReconError, match="x.safetensors") as caught:
        SafetensorsSource(tmp_path / "x.safetensors")
    assert words in caught.value.message


def read(path: Path) -> dict[str, bytes]:
    with SafetensorsSource(path) as source:
        return {tensor.key: bytes_of(tensor) for tensor in source.tensors}


@st.composite
def states(draw):
    keys = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    state = {}
    for key in keys:
        shape, dtype = draw(st.lists(st.integers(0, 3), max_size=3)), draw(st.sampled_from(DTYPES))
        state[key] = torch.randint(0, 2, shape, generator=generator).to(dtype)
    return {key: value for key, value in state.items() if key != "__metadata__"}


@settings(max_examples=60)
@given(states())
def test_what_is_written_is_read_by_the_library_and_by_us(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("state") / "x.safetensors"
    save_state_dict(state, path)
    by_library = load_file(path)
    assert by_library.keys() == state.keys()
    for key, value in state.items():
        assert by_library[key].dtype == value.dtype
        assert by_library[key].shape == value.shape
        assert by_library[key].tolist() == value.tolist()
    save_file(state, path)
    assert {k: hashlib.sha256(v).digest() for k, v in read(path).items()} == {
        key: hashlib.sha256(bytes(value.contiguous().view(-1).view(torch.uint8).tolist())).digest()
        if value.numel()
        else hashlib.sha256().digest()
        for key, value in state.items()
    }


@settings(max_examples=150)
@given(st.data())
def test_of_mutated_files_none_is_accepted_that_the_library_refuses(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("mutated") / "x.safetensors"
    save_file({"a.weight": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int64)}, path, {"k": "v"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        ours = read(path)
    except ReconError:
        return
    try:
        with safe_open(path, "pt") as file:
            assert set(file.keys()) == set(ours)
    except SafetensorError as error:
        pytest.fail(f"accepted what the library refuses: {error}")


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    state = {"b": torch.arange(5), "a": torch.ones(2, 2), "c": torch.zeros(3, dtype=torch.bool)}
    for name in ("one", "two"):
        save_state_dict(state, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_every_tensor_is_aligned_to_its_type(tmp_path):
    state = {"flag": torch.zeros(3, dtype=torch.bool), "count": torch.tensor(5), "half": torch.zeros(3).half()}
    save_state_dict(state, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 8 == 0
    for key, size in (("flag", 1), ("count", 8), ("half", 2)):
        assert header[key]["data_offsets"][0] % size == 0


def test_views_and_conjugates_are_written_as_they_look(tmp_path):
    state = {
        "turned": torch.arange(6.0).view(2, 3).T,
        "part": torch.arange(10)[2:8:2],
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "scalar": torch.tensor(4.5),
    }
    save_state_dict(state, tmp_path / "x.safetensors")
    for key, value in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(value, state[key])


def test_tensors_that_the_format_does_not_have_are_refused(tmp_path):
    for value, words in (
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.empty(2, device="meta"), "without values"),
        (torch.zeros(1).expand(1 << 40), "repeats its memory"),
        (torch.zeros(1, dtype=torch.complex128), "has the type C128"),
    ):
        with pytest.raises(ReconError, match=words):
            save_state_dict({"w": value}, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_changes_meanwhile_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_state_dict({"w": torch.arange(4.0)}, path)
    target = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    with SafetensorsSource(path) as source:
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(ReconError, match="was changed while it was read"):
            write_safetensors(target, source, {"w": ("w",)}, lambda _: {})
    save_state_dict({"w": torch.arange(4.0)}, path, overwrite=True)
    with SafetensorsSource(path) as source:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(ReconError, match="became shorter"):
            write_safetensors(target, source, {"w": ("w",)}, lambda _: {})
    os.close(target)


def test_tied_tensors_are_found():
    weight = torch.zeros(3)
    assert TensorSource({"a": weight, "b": torch.zeros(3), "c": weight}, "this").ties == {"c": "a"}
