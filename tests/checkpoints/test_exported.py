"""The weights of exported programs: the names and tensors that `torch.export.load(...).state_dict` has."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._export.serde import schema, serialize

from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.programs.exported import SCALAR_TYPES
from recon_cli.checkpoints.sniffing import sniff_format
from recon_cli.checkpoints.state_dict import read_state_dict
from recon_cli.checkpoints.tensors import TORCH_DTYPES
from tests import networks
from tests.checkpoints.as_process import check_split, check_without_torch

# Torch says so of a strided tensor, and saves it well.
pytestmark = pytest.mark.filterwarnings("ignore:No complete tensor found")

CONFIG = "data/weights/model_weights_config.json"


class Odd(nn.Module):
    """Tied, strided, empty and 0-d tensors, slices of one storage, buffers and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.body[0].weight
        self.low = nn.Linear(3, 3).bfloat16()
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("kept", torch.arange(3))
        self.turned = nn.Parameter(torch.randn(3, 4).t())
        storage = torch.randn(10)
        self.first, self.second = nn.Parameter(storage[2:5]), nn.Parameter(storage[5:8])
        self.constant = torch.ones(3)
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.scalar = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        y = self.body(x) + self.tied(x) + self.low(x.bfloat16()) + self.first + self.second + self.constant
        return y + self.passing.sum() + self.turned.sum() + self.empty.sum() + self.scalar + self.kept


def program(module: nn.Module, *shape: int) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), (torch.randn(*shape),))


@pytest.fixture(scope="module")
def odd() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program(Odd(), 2, 3), buffer)
    return buffer.getvalue()


def rewrite(data: bytes, change: Callable[[str, bytes], bytes | None], **more: bytes) -> bytes:
    """The same archive with other members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for info in old.infolist():
            content = change(info.filename.partition("/")[2], old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
        for name, content in more.items():
            new.writestr(f"{root}/{name}", content)
    return buffer.getvalue()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def as_in_2_8(data: bytes) -> bytes:
    """The state dict as one torch file, as torch 2.8 wrote it."""
    state = dict(torch.export.load(io.BytesIO(data)).state_dict)
    kept = rewrite(data, lambda name, content: None if name.startswith("data/weights/") else content)
    return rewrite(kept, lambda _, content: content, **{"data/weights/model.pt": saved(state)})


def as_in_2_7(data: bytes) -> bytes:
    """An archive without a folder, as torch until 2.7 wrote it."""
    artifact = serialize.serialize(torch.export.load(io.BytesIO(data)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("version", ".".join(map(str, schema.SCHEMA_VERSION)))
        archive.writestr("serialized_exported_program.json", artifact.exported_program)
        archive.writestr("serialized_state_dict.pt", artifact.state_dict)
        archive.writestr("serialized_constants.pt", artifact.constants)
        archive.writestr("serialized_example_inputs.pt", artifact.example_inputs)
    return buffer.getvalue()


FORMS = {"present": lambda data: data, "2.8": as_in_2_8, "2.7": as_in_2_7}


@pytest.mark.parametrize("form", FORMS)
def test_names_and_tensors_are_those_of_the_loaded_program(tmp_path, odd, form):
    path = tmp_path / "x.bin"
    path.write_bytes(FORMS[form](odd))
    wanted = torch.export.load(path).state_dict
    found = read_state_dict(path)
    assert sniff_format(path) == "exported"
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key
    with open_checkpoint(path) as source:
        assert source.FORMAT == "exported"
        assert source.ties == {"tied.weight": "body.0.weight"}


def test_constants_are_named_and_left_out(tmp_path, odd):
    (tmp_path / "x.pt2").write_bytes(odd)
    with open_checkpoint(tmp_path / "x.pt2") as source:
        assert set(source.others) == {"constant", "passing"}
    check_without_torch(tmp_path / "x.pt2")


def test_the_numbers_of_types_are_torchs():
    known = serialize._SERIALIZE_TO_TORCH_DTYPE
    names = {number: TORCH_DTYPES[str(kind).removeprefix("torch.")] for number, kind in known.items() if number}
    assert {number: SCALAR_TYPES[number] for number in names} == names
    assert set(SCALAR_TYPES) == {int(kind) for kind in schema.ScalarType if kind}
    assert int(schema.Layout.Strided) == 7


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("kind", [kind for kind in serialize._TORCH_TO_SERIALIZE_DTYPE if kind != torch.bool])
def test_every_type_is_read(tmp_path, kind):
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("value", torch.arange(1, 6, dtype=torch.uint8).repeat(16).view(kind))

        def forward(self, x):
            return x, self.value

    torch.export.save(program(One(), 2), tmp_path / "x.pt2")
    found = read_state_dict(tmp_path / "x.pt2")["value"]
    assert found.dtype == kind
    assert torch.equal(found.view(torch.uint8), One().value.view(torch.uint8))


def test_a_split_program_is_what_torch_says(tmp_path):
    path = tmp_path / "x.pt2"
    torch.export.save(program(networks.two_tasks(), 2, 1, 5, 5), path)
    check_split(path, torch.export.load(path).state_dict, "body.0", tmp_path / "o.safetensors")


def pickled(value: object) -> Callable[[bytes], bytes]:
    """A tensor of a subclass, as torch saves it: a torch file within the archive."""

    def change(data: bytes) -> bytes:
        edited = edit("scalar", lambda entry: entry.update(use_pickle=True))(data)
        at = json.loads(zipfile.ZipFile(io.BytesIO(data)).read(config_name(data)))["config"]["scalar"]["path_name"]
        return rewrite(edited, lambda name, content: saved(value) if name == f"data/weights/{at}" else content)

    return change


def config_name(data: bytes) -> str:
    return next(name for name in zipfile.ZipFile(io.BytesIO(data)).namelist() if name.endswith(CONFIG))


def edit(key: str, change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Change what the archive says of one tensor."""

    def edited(name: str, content: bytes) -> bytes:
        if name != CONFIG:
            return content
        config = json.loads(content)
        change(config["config"][key])
        return json.dumps(config).encode()

    return lambda data: rewrite(data, edited)


def meta(**fields: object) -> Callable[[bytes], bytes]:
    return edit("turned", lambda entry: entry["tensor_meta"].update(fields))


def ints(*values: object) -> list[dict[str, object]]:
    return [{"as_int": value} for value in values]


def config(text: bytes) -> Callable[[bytes], bytes]:
    return lambda data: rewrite(data, lambda name, content: text if name == CONFIG else content)


def without(prefix: str) -> Callable[[bytes], bytes]:
    return lambda data: rewrite(data, lambda name, content: None if name.startswith(prefix) else content)


def test_a_tensor_that_is_pickled_is_read(tmp_path, odd):
    (tmp_path / "x.pt2").write_bytes(pickled(torch.tensor(5.0))(odd))
    assert read_state_dict(tmp_path / "x.pt2")["scalar"] == 5


class Run:
    def __reduce__(self):
        return (exec, ("open('owned', 'w')",))


REFUSED = {
    "too large a size": (meta(sizes=ints(4, 4)), "`turned` of `x.pt2` is damaged: it reaches beyond its storage"),
    "a huge size": (meta(sizes=ints(1 << 62, 1 << 62), strides=ints(0, 0)), "a view that repeats its memory"),
    "a negative size": (meta(sizes=ints(-1, 3)), "are no counts"),
    "a true size": (meta(sizes=ints(True, 3)), "are no counts"),
    "a symbolic size": (meta(sizes=[{"as_expr": {"expr_str": "s0"}}, {"as_int": 3}]), "are no counts"),
    "sizes that are no list": (meta(sizes=4), "are no list"),
    "too few strides": (meta(strides=ints(1)), "more sizes than strides"),
    "too large a stride": (meta(strides=ints(1, 400)), "reaches beyond its storage"),
    "too large an offset": (meta(storage_offset={"as_int": 1}), "reaches beyond its storage"),
    "an unknown type": (meta(dtype=99), "of the type `99`, which is not known"),
    "a type that is no number": (meta(dtype=[7]), "of the type `[7]`"),
    "a type that is true": (meta(dtype=True), "of the type `True`"),
    "a sparse layout": (meta(layout=1), "is sparse"),
    "no description": (edit("turned", lambda entry: entry.update(tensor_meta=None)), "it is not described"),
    "two types of one storage": (
        edit("tied.weight", lambda entry: entry["tensor_meta"].update(dtype=4)), "its storage is of another type",
    ),
    "a path out": (
        edit("turned", lambda entry: entry.update(path_name="../constants/tensor_0")),
        "has no weights `../constants/tensor_0`",
    ),
    "a path to what is no tensor": (
        edit("turned", lambda entry: entry.update(path_name="model_weights_config.json")), "has no weights",
    ),
    "a missing member": (without("data/weights/weight_3"), "the archive has no weights `weight_3`"),
    "no weights": (without("data/weights"), "holds no weights of a model"),
    "no configuration": (config(b'{"config": {}}'), "has no parameters and buffers"),
    "a list": (config(b"[]"), "makes no sense"),
    "names alone": (config(b'{"config": {"a": 1}}'), "makes no sense"),
    "no JSON": (config(b"{"), "is not valid JSON"),
    "a key twice": (config(b'{"config": {"a": {}, "a": {}}}'), "stands twice"),
    "a pickled object": (pickled(Run()), "is or holds a `__builtin__.exec`"),
    "a pickled list": (pickled([1]), "what rebuilds it"),
    "a torch file that is none": (
        lambda data: rewrite(as_in_2_8(data), lambda name, content: b"PK" if name.endswith("model.pt") else content),
        "is cut off or damaged",
    ),
    "a torch file that holds code": (
        lambda data: rewrite(
            as_in_2_8(data),
            lambda name, content: saved({"w": torch.ones(1), "x": Run()}) if name.endswith("model.pt") else content,
        ),
        "is a `__builtin__.exec`",
    ),
    "cut off": (lambda data: data[:-100], "is not a valid torch archive"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_an_archive_that_lies_is_refused_for_it(recon, odd, kind):
    change, words = REFUSED[kind]
    Path("x.pt2").write_bytes(change(odd))
    recon("split", "x.pt2", "--layers", "body.0", "--tasks", "a,b", "-o", "b.safetensors").refuses(words)
    assert sorted(Path().iterdir()) == [Path("x.pt2")]
