"""Valid files with some bytes changed: a clean refusal, or exactly what plain torch makes of the same file."""

from __future__ import annotations

import contextlib
import io
import pickle
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from recon_cli.cli.app import main
from tests.conftest import Result
from tests.hostile.making import write_zip

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")
TASKS = ("a", "b")
WEIGHTS = {
    "w": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(2, dtype=torch.float16), "b.count": torch.tensor(3),
    "c.turned": torch.arange(6).view(2, 3).T, "c.again": torch.arange(4.0)[1:3], "d": torch.tensor([True, False]),
}  # fmt: skip
NESTED = {
    "model": WEIGHTS, "epoch": 3, "ema": {"decay": 0.9, "shadow": {"w": torch.zeros(2, 3)}},
    "optimizer": {"state": {0: {"step": torch.tensor(1.0), "m": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]},
}  # fmt: skip


def run(*arguments: object) -> Result:
    """Run `recon` without pytest's capturing, which has one scope for all examples."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Result(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


def bits(value: torch.Tensor) -> tuple[object, ...]:
    plain = torch.empty(value.numel(), dtype=value.dtype).copy_(value.detach().reshape(-1))
    return value.dtype, tuple(value.shape), bytes(plain.view(torch.uint8).tolist())


def mappings_in(node: object) -> Iterator[Mapping[object, object]]:
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from mappings_in(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from mappings_in(value)


class Tolerant(pickle._Unpickler):
    """Python's own reader as torch uses it, but a tensor that cannot be rebuilt is None.

    Recon reads the weights alone, so damage to other tensors of a file is none of its business.
    """

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name.startswith("_rebuild_tensor"):
            found = within_storage(found)
        return tolerant(found) if name.startswith("_rebuild") else found

    @property
    def persistent_load(self) -> Any:
        return self._persistent_load

    @persistent_load.setter
    def persistent_load(self, load: Any) -> None:
        self._persistent_load = tolerant(load)


def within_storage(rebuild: Any) -> Any:
    """torch grows a storage that a tensor reaches beyond, and then finds that it is not as long as the file says."""

    def call(storage: Any, offset: int, shape: Any, strides: Any, *rest: object) -> object:
        used = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if 0 not in shape and offset + used > storage._size():
            raise ValueError("it reaches beyond its storage")
        return rebuild(storage, offset, shape, strides, *rest)

    return call


def tolerant(function: Any) -> Any:
    def call(*arguments: object) -> object:
        try:
            return function(*arguments)
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, UnpicklingError):
            return None

    return call


def loaded_by_torch(path: Path) -> object:
    """What torch makes of a file in which Recon has found no code."""
    if path.suffix == ".safetensors":
        return load_file(path)
    with contextlib.suppress(Exception):
        return torch.load(path, map_location="cpu", weights_only=True)
    reader = types.SimpleNamespace(Unpickler=Tolerant, load=pickle.load, __name__="tolerant")
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)
    except UnicodeDecodeError:
        # That identity is damaged, and nothing else.
        write_zip(path, contents(path))
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)


def check(path: Path) -> str:
    """Split a file that may be damaged, and check what comes of it; tells which way it went."""
    output = path.parent / "out.safetensors"
    before = sorted(path.parent.iterdir())
    result = run("split", path, "--layers", "w", "--tasks", ",".join(TASKS), "-o", output, "--quiet")
    if result.code:
        result.refuses()
        message, *hints = result.err.splitlines()
        assert message.startswith("error: ") and len(hints) <= 1, result.err
        assert sorted(path.parent.iterdir()) == before
        return "refused"
    branched = {name: bits(value) for name, value in load_file(output).items()}
    for each in set(path.parent.iterdir()) - set(before):
        each.unlink()
    assert branched in [split(mapping) for mapping in mappings_in(loaded_by_torch(path))]
    return "split"


def split(state: Mapping[object, object]) -> dict[object, object]:
    """What branching the layer `w` makes of a state dict; None for what has no such layer."""
    tensors = {name: bits(value) for name, value in state.items() if isinstance(value, torch.Tensor)}
    found: dict[object, object] = {}
    for name, value in tensors.items():
        if name == "w" or str(name).startswith("w."):
            found.update({f"w.tasks.{task}{str(name)[1:]}": value for task in TASKS})
        else:
            found[name] = value
    return found


@st.composite
def mutations(draw, data: bytes):
    """Bytes with some changed, cut out, put in or moved."""
    content = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(1, 8))
        kind = draw(st.sampled_from(["set", "set", "flip", "flip", "delete", "insert", "copy", "cut"]))
        if not content:
            break
        if kind == "set":
            content[at] = draw(st.integers(0, 255))
        elif kind == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "delete":
            del content[at : at + length]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "copy":
            other = draw(st.integers(0, len(content) - 1))
            content[at : at + length] = content[other : other + length]
        elif draw(st.integers(0, 4)) == 0:
            del content[at:]
    return bytes(content)


def contents(file: Any) -> dict[str, bytes]:
    """The members of an archive but for the identity that torch gives to every file."""
    with zipfile.ZipFile(file) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        return {short: archive.read(name) for short, name in names.items() if short != ".data/serialization_id"}


def saved(value: object, *, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def of_safetensors(folder: Path) -> bytes:
    save_file({name: value.contiguous() for name, value in WEIGHTS.items()}, folder / "whole", {"format": "pt"})
    return (folder / "whole").read_bytes()


FILES = {
    "x.safetensors": of_safetensors,
    "zip.pt": lambda _: saved(WEIGHTS, zipped=True),
    "legacy.pt": lambda _: saved(WEIGHTS, zipped=False),
    "nested.pt": lambda _: saved(NESTED, zipped=True),
    "nested legacy.pt": lambda _: saved(NESTED, zipped=False),
}
EXAMPLES = settings(max_examples=100)


@pytest.fixture(scope="module", params=FILES)
def whole(request, tmp_path_factory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    content = FILES[request.param](folder)
    path = tmp_path_factory.mktemp("mutated") / request.param
    path.write_bytes(content)
    assert check(path) == "split"
    return path, content


@EXAMPLES
@given(data=st.data())
def test_a_mutated_file_is_refused_or_read_as_torch_reads_it(whole, data):
    path, content = whole
    path.write_bytes(data.draw(mutations(content)))
    check(path)


@EXAMPLES
@pytest.mark.parametrize("value", [WEIGHTS, NESTED], ids=["flat", "nested"])
@given(data=st.data())
def test_a_mutated_pickle_in_a_whole_archive_is_refused_or_read_as_torch_reads_it(tmp_path_factory, value, data):
    path = tmp_path_factory.mktemp("mutated") / "x.pt"
    changed = contents(io.BytesIO(saved(value, zipped=True)))
    changed["data.pkl"] = data.draw(mutations(changed["data.pkl"]))
    write_zip(path, changed)
    check(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_changed_numbers_are_no_damage_where_no_sum_says_so(tmp_path, zipped):
    value = torch.arange(6.0)
    content = saved({"w": value}, zipped=zipped)
    at = content.index(bytes(value.view(torch.uint8).tolist()))
    (tmp_path / "x.pt").write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    assert check(tmp_path / "x.pt") == ("refused" if zipped else "split")
