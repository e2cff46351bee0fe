"""Torch files that lie, ask for code or hold what is no tensor: one sentence each, and nothing is run or written."""

from __future__ import annotations

import argparse
import builtins
import collections
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file

from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.state_dict import read_state_dict
from recon_cli.errors import ReconError
from tests import networks
from tests.hostile.making import SYSTEM, Asked, Stored, legacy, members_of, pickled, stored_in, tensor, write_zip

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
RUN = Asked(os.system, "touch owned")


def write(value: object, *, zipped: bool = True, records: dict[str, bytes] | None = None) -> Path:
    """A torch file of either form, made by hand."""
    path = Path("x.pt")
    if zipped:
        write_zip(path, members_of(value, records))
    else:
        if records is None and not isinstance(value, bytes):
            records = {"0": bytes(16)} if "0" in stored_in(value) else {}
        path.write_bytes(legacy(value, records))
    return path


def within(function: object) -> Asked:
    return Asked(torch._utils._rebuild_tensor_v2, Stored(), 0, (4,), (1,), False, function)


CODE = {
    "a function of the system": ({"w": tensor(), "x": RUN}, "`x` of `x.pt` is a `posix.system`"),
    "eval": ({"w": tensor(), "x": Asked(eval, "1")}, "`x` of `x.pt` is a `__builtin__.eval`"),
    "getattr": ({"w": tensor(), "x": Asked(getattr, torch.ones(1), "data")}, "is a `__builtin__.getattr`"),
    "what a function would give": (
        b"\x80\x02c__builtin__\ngetattr\ncos\npath\nX\x06\0\0\0system\x86R)R.",
        "`x.pt` is what a computed function would give",
    ),
    "torch's own loader": ({"w": tensor(), "x": Asked(torch.load, "y.pt")}, "is a `torch.serialization.load`"),
    "as an entry of a state dict": ({"w": tensor(), "w2": tensor(), "x": RUN}, "`x` of `x.pt` is a `posix.system`"),
    "as a key": ({"w": tensor(), ("x", RUN): 1}, "a mapping with a key that is a `posix.system`"),
    "as a key of an OrderedDict": (
        {"w": tensor(), "o": OrderedDict({RUN: 1})}, "`o` of `x.pt` is a mapping with a key that is a `posix.system`",
    ),
    "in a set": ({"w": tensor(), "x": {RUN}}, "`x.0` of `x.pt` is a `posix.system`"),
    "in a list of lists": ({"w": tensor(), "x": [[0], [1, RUN]]}, "`x.1.1` of `x.pt` is a `posix.system`"),
    "as the hooks of a tensor": ({"w": within(RUN)}, "`w` of `x.pt` is a `posix.system`"),
    "in the state of a container": (
        {"w": tensor(), "x": Asked(OrderedDict, _metadata=RUN)}, "`x._metadata` of `x.pt` is a `posix.system`",
    ),
    "as what a defaultdict begins with": (
        {"w": tensor(), "x": Asked(collections.defaultdict, os.system)}, "`x` of `x.pt` is a `posix.system`",
    ),
    "as the function of a tensor with attributes": (
        {"w": Asked(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, ("touch owned",), {})},
        "`w` of `x.pt` is a `posix.system`",
    ),
    "where a storage should be": ({"w": tensor(RUN)}, "`w` of `x.pt` is a `posix.system`"),
    "as the class of a storage": ({"w": tensor(Stored(kind=os.system))}, "is a `posix.system`"),
    "instead of everything": (RUN, "`x.pt` is a `posix.system`"),
}  # fmt: skip


@FORMS
@pytest.mark.parametrize("kind", CODE)
def test_code_is_named_and_not_run(refused, kind, zipped):
    value, words = CODE[kind]
    message = refused(write(value, zipped=zipped, records={}), words, "is not opened")
    assert "weights_only" not in message


class Odd(torch.Tensor):
    """A subclass, as some libraries have."""


def meta_wrapper() -> torch.Tensor:
    return torch.Tensor._make_wrapper_subclass(Odd, (2,), dtype=torch.float32)


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])


KINDS = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "sparse"),
    "sparse in rows": (lambda: torch.eye(2).to_sparse_csr(), "sparse"),
    "quantised": (quantised, "quantised"),
    "nested": (nested, "nested"),
    "meta": (lambda: torch.ones(2, device="meta"), "without values"),
    "conjugated": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "a conjugated or negated view"),
    "negated": (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "a conjugated or negated view"),
    "of a subclass": (lambda: torch.ones(2).as_subclass(Odd), "tests.hostile.test_torch_files.Odd"),
    "that repeats its memory": (lambda: torch.ones(4).as_strided((1 << 20, 1 << 20), (0, 0)), "repeats its memory"),
    "that overlaps itself": (lambda: torch.ones(4).as_strided((3, 3), (1, 0)), "repeats its memory"),
}


@FORMS
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_plain_are_named(refused, kind, zipped):
    make, words = KINDS[kind]
    try:
        torch.save({"w": torch.ones(2), "odd": make()}, "x.pt", _use_new_zipfile_serialization=zipped)
    except (RuntimeError, NotImplementedError, AttributeError):
        pytest.skip("torch does not save it in this form")
    refused("x.pt", "`odd` of `x.pt` is", words)


def nest(depth: int, inner: object, wrap: type) -> object:
    for _ in range(depth):
        inner = wrap([inner])
    return inner


def marked(marks: object) -> Asked:
    return tensor(Stored(kind=torch.ComplexFloatStorage, count=2), 0, (2,), (1,), False, {}, marks)


def parameter_of(inner: object, times: int) -> bytes:
    """A pickle of a state dict with a parameter of a parameter and so on."""
    begin = b"ctorch._utils\n_rebuild_parameter\n("
    return b"\x80\x02}X\1\0\0\0w" + begin * times + pickled(inner)[2:-1] + b"\x89}tR" * times + b"s."


def built(value: Asked, **state: object) -> Asked:
    function, arguments, _ = value._parts
    return Asked(function, *arguments, **state)


def with_dtype(dtype: object, *rest: object) -> Asked:
    return Asked(
        torch._utils._rebuild_tensor_v3,
        Stored(kind=torch.UntypedStorage, count=16),
        0,
        (4,),
        (1,),
        False,
        {},
        dtype,
        *rest,
    )


LIES = {
    "a storage that is longer than its record": (tensor(Stored(count=5)), "storage has 16 bytes, but should have 20"),
    "a storage that is shorter": (tensor(Stored(count=3)), "storage has 16 bytes, but should have 12"),
    "a storage of a negative length": (tensor(Stored(count=-4)), "the name of its storage makes no sense"),
    "a storage of no end": (tensor(Stored(count=1 << 100)), "the name of its storage makes no sense"),
    "a storage of a length in text": (tensor(Stored(count="4")), "the name of its storage makes no sense"),
    "a record that is missing": (tensor(Stored("1")), "the archive has no member `data/1`"),
    "a record out of its folder": (tensor(Stored("../data.pkl")), "no member `data/../data.pkl`"),
    "a storage without a name": (tensor(Stored(name=5)), "its storage has no name"),
    "something else than a storage": (tensor(Stored(name=("module", 1, 2, 3, 4))), "its storage has no name"),
    "a part of a storage": (
        tensor(Stored(name=("storage", torch.FloatStorage, "0", "cpu", 4, ("0", 0, 2)))), "before version 0.4",
    ),
    "a storage of no class": (tensor(Stored(kind=torch.Tensor)), "its storage is of no class that is known"),
    "a storage without a type": (tensor(Stored(kind=torch.UntypedStorage, count=16)), "its storage has no type"),
    "no storage": (tensor("0"), "what rebuilds it makes no sense"),
    "a view beyond its storage": (tensor(None, 1), "reaches beyond its storage"),
    "a view far beyond": (tensor(None, 1 << 62), "reaches beyond its storage"),
    "strides beyond": (tensor(None, 0, (2, 2), (1 << 60, 1)), "reaches beyond its storage"),
    "a negative offset": (tensor(None, -1), "makes no sense"),
    "a negative stride": (tensor(None, 3, (4,), (-1,)), "makes no sense"),
    "a negative size": (tensor(None, 0, (-4,)), "makes no sense"),
    "a size in text": (tensor(None, 0, ("4",)), "makes no sense"),
    "a size of truth": (tensor(None, 0, (True,)), "makes no sense"),
    "more sizes than strides": (tensor(None, 0, (2, 2)), "more sizes than strides"),
    "sizes that overflow": (tensor(None, 0, (1 << 62, 1 << 62, 0), (1, 1, 1)), "its shape is too large"),
    "a million dimensions": (tensor(None, 0, (1 << 62,) * 1_000_000, (0,) * 1_000_000), "its shape is too large"),
    "repeated memory": (tensor(None, 0, (1 << 20, 1 << 20), (0, 0)), "a view that repeats its memory"),
    "marks of a conjugate": (marked({"conj": True}), "a conjugated or negated view"),
    "marks in a container of its own": (marked(OrderedDict(conj=True)), "a conjugated or negated view"),
    "marks of no kind": (marked(5), "a conjugated or negated view"),
    "a type that is none": (with_dtype(torch.Tensor), "of the type `torch.Tensor`"),
    "no type": (with_dtype(None), "of the type unknown"),
    "bits": (with_dtype(torch.bits8), "of the type `torch.bits8`"),
    "a tensor given a state": (built(tensor(), a=1), "something changes it after it was rebuilt"),
    "a parameter of parameters": (parameter_of(tensor(), 900), "wrapped again and again"),
    "a parameter of nothing": (parameter_of(5, 1), "what rebuilds it makes no sense"),
    "no arguments": (Asked(torch._utils._rebuild_tensor_v2), "an argument too few or too many"),
    "a storage named as in older files": (
        tensor(Stored(name=("storage", torch.FloatStorage, "0", "cpu", 4, None))), "named as in another form",
    ),
    "a storage of another type than before": (
        pickled({"v": tensor()})[:-1] + b"X\1\0\0\0w" + pickled(tensor(Stored(kind=torch.IntStorage)))[2:-1] + b"s.",
        "another type or size than an earlier tensor says",
    ),
    "no sign of a gradient": (tensor(None, 0, (4,), (1,), 5, {}), "what rebuilds it makes no sense"),
    "a gradient of whole numbers": (
        tensor(Stored(kind=torch.IntStorage), 0, (4,), (1,), True, {}), "what rebuilds it makes no sense",
    ),
    "too many arguments": (tensor(None, 0, (4,), (1,), False, {}, None, 5), "an argument too few or too many"),
    "a quantised storage": (tensor(Stored(kind=torch.QInt8Storage, count=16)), "quantised"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIES)
def test_a_tensor_that_contradicts_itself_is_named(refused, kind):
    value, words = LIES[kind]
    value = value if isinstance(value, bytes) else {"fine": tensor(Stored("9")), "w": value}
    refused(write(value, records={"0": bytes(16), "9": bytes(16)}), "the tensor `w` of `x.pt` is", words)


ASKING = {
    "a bytearray": (Asked(bytearray, 4 << 30), "a buffer whose bytes are not in the file"),
    "a tensor of its type": (Asked(torch.FloatTensor, 1 << 28), "a `torch.FloatTensor`"),
    "a tensor": (Asked(torch.Tensor, 1 << 28), "a call of `torch"),
    "an untyped storage": (Asked(torch.UntypedStorage, 1 << 30), "a call of `torch.storage.UntypedStorage`"),
    "a storage": (Asked(torch.FloatStorage, 1 << 28), "a call of `torch.FloatStorage`"),
    "bytes": (Asked(bytes, 4 << 30), "a call of `__builtin__.bytes`"),
    "a list": (Asked(list, range(1 << 40)), "a call of `__builtin__.list`"),
}


@FORMS
@pytest.mark.parametrize("kind", ASKING)
def test_memory_that_the_file_does_not_hold_is_not_set_aside(refused, kind, zipped):
    value, words = ASKING[kind]
    refused(write({"w": tensor(), "x": value}, zipped=zipped), "`x` of `x.pt` is", words)


def cyclic_list() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def cyclic_dict() -> dict[str, object]:
    value: dict[str, object] = {"w": tensor()}
    value["again"] = [value]
    return value


def shared(levels: int, leaf: object) -> object:
    """A few bytes that unfold to 2 to the power of `levels` leaves."""
    for _ in range(levels):
        leaf = [leaf, leaf]
    return leaf


def deep(levels: int) -> bytes:
    """A pickle nested deeper than Python's own pickler goes."""
    return pickled({"w": tensor()})[:-1] + b"X\1\0\0\0x" + b"(" * levels + b"N" + b"l" * levels + b"s."


SHAPES = {
    "a list in itself": (lambda: {"w": tensor(), "x": cyclic_list()}, "contains itself, at `x.0`"),
    "a dict in itself": (cyclic_dict, "contains itself, at `again.0`"),
    "levels": (lambda: deep(100_000), "nested too deeply"),
    "a little unfolding to much": (lambda: {"w": tensor(), "x": shared(28, 0)}, "repeats the same parts too often"),
    "weights unfolding": (lambda: {"x": shared(28, {"w": tensor()})}, "repeats the same parts too often"),
    "keys that are numbers": (lambda: {1: tensor(), 2: tensor()}, "holds no state dict"),
    "keys that are bytes": (lambda: {b"w": tensor()}, "holds no state dict"),
    "keys of several kinds": (lambda: {"w": tensor(), 2: tensor()}, "holds no state dict"),
    "a key that cannot be one": (lambda: b"\x80\x02}ccollections\nOrderedDict\n)RK\1s.", "a mapping with a key"),
    "an optimizer's state": (lambda: {"state": {0: {"m": tensor()}}, "param_groups": []}, "holds no state dict"),
    "a list of tensors": (lambda: [tensor()], "holds no state dict"),
    "what appends to a mapping": (lambda: b"\x80\x02ccollections\nOrderedDict\n)R(K\1e.", "holds no state dict"),
}  # fmt: skip


@FORMS
@pytest.mark.parametrize("kind", SHAPES)
def test_containers_of_odd_shapes_are_refused(refused, kind, zipped):
    make, words = SHAPES[kind]
    value = make()
    nothing = isinstance(value, bytes) and b"torch" not in value
    refused(write(value, zipped=zipped, records={} if nothing else None), "`x.pt`", words)


FOREIGN = {
    "a namespace": (argparse.Namespace(lr=0.1), "`args` of `x.pt` is a `argparse.Namespace`"),
    "a number of numpy": (numpy.float64(0.5), "`args` of `x.pt` is a `numpy._core.multiarray.scalar`"),
    "an array of numpy": (numpy.ones(3), "`args` of `x.pt` is a `numpy._core.multiarray._reconstruct`"),
    "a path": (Path("/"), "`args` of `x.pt` is a `pathlib.PosixPath`"),
    "code": (RUN, "`args` of `x.pt` is a `posix.system`"),
    "an object within": ({"a": [1, argparse.Namespace()]}, "`args.a.1` of `x.pt` is a `argparse.Namespace`"),
}


@FORMS
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_lies_beside_the_weights_is_named_and_the_way_on(refused, tmp_path, kind, zipped):
    value, words = FOREIGN[kind]
    weights = {"w": torch.arange(4.0), "b": torch.ones(2)}
    content = {"epoch": 3, "model": weights, "ema": {"w": torch.zeros(4)}, "args": value}
    torch.save(content, "x.pt", _use_new_zipfile_serialization=zipped)
    refused("x.pt", words, "pass `--key model` to take the weights alone")
    for key, expected in (("model", weights), ("ema", content["ema"])):
        found = read_state_dict(Path("x.pt"), key)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert [each.name for each in tmp_path.iterdir()] == ["x.pt"]


def test_a_key_does_not_open_what_it_leads_to_if_that_is_foreign(tmp_path):
    torch.save({"model": {"w": torch.ones(2), "x": RUN}}, tmp_path / "x.pt")
    with pytest.raises(ReconError, match=r"`model.x` of .* is a `posix.system`"):
        open_checkpoint(tmp_path / "x.pt", "model")


@pytest.mark.parametrize("key", ["mode", "model.w", "model.w.0", "args", "0", "\x1b[31m", "x" * 100_000])
def test_a_key_that_leads_nowhere_is_refused(tmp_path, key):
    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace()}, tmp_path / "x.pt")
    with pytest.raises(ReconError):
        open_checkpoint(tmp_path / "x.pt", key)


def test_names_in_hints_can_be_typed_into_a_shell(refused):
    torch.save({"my model; rm": {"w": torch.ones(2)}, "args": argparse.Namespace()}, "x.pt")
    refused("x.pt", "pass `--key 'my model; rm'`")


@FORMS
def test_a_whole_network_is_refused_with_the_way_to_save_its_weights(refused, zipped):
    torch.save(networks.two_tasks(), "x.pt", _use_new_zipfile_serialization=zipped)
    refused("x.pt", "is a `tests.networks.", "torch.save(model.state_dict(), path)")


ARCHIVES = {
    "no pickle": (lambda m: m.pop("data.pkl"), "it has no `data.pkl`"),
    "numbers of a big-endian machine": (lambda m: m.update(byteorder=b"big"), "big-endian machine"),
    "an order of bytes that is none": (lambda m: m.update(byteorder=b"x" * 100), "at most 16 are read"),
    "an empty pickle": (lambda m: m.update({"data.pkl": b""}), "ends before its pickle does"),
    "half a pickle": (lambda m: m.update({"data.pkl": m["data.pkl"][:40]}), "ends before its pickle does"),
    "more behind the pickle": (lambda m: m.update({"data.pkl": m["data.pkl"] + b"N."}), "2 bytes behind its end"),
    "text for a pickle": (lambda m: m.update({"data.pkl": b"hello"}), "is no valid pickle"),
    "no pickle of this age": (lambda m: m.update({"data.pkl": b"\x80\x09N."}), "newer than any known"),
    "a record cut off": (lambda m: m.update({"data/0": bytes(8)}), "storage has 8 bytes, but should have 16"),
    "an empty record": (lambda m: m.update({"data/0": b""}), "storage has 0 bytes, but should have 16"),
    "no records": (lambda m: m.pop("data/0"), "has no member `data/0`"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_with_other_members_than_they_should_have(refused, kind):
    change, words = ARCHIVES[kind]
    members = members_of({"w": tensor()})
    change(members)
    write_zip(Path("x.pt"), members)
    refused("x.pt", "`x.pt`", words)


def test_members_that_stand_twice_are_refused(refused):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile("x.pt", "w") as archive:
            for name, content in [*members_of({"w": tensor(), "x": RUN}).items(), *members_of({"w": tensor()}).items()]:
                archive.writestr(f"archive/{name}", content)
    refused("x.pt", "member `archive/data.pkl` stands twice")


def test_a_member_outside_the_archives_folder_is_refused(refused):
    write_zip(Path("x.pt"), {**{f"a/{k}": v for k, v in members_of({"w": tensor()}).items()}, "b/c": b""}, root="")
    refused("x.pt", "member `b/c` lies outside its folder `a`")


def test_weights_that_are_packed_are_not_taken_for_weights(refused):
    write_zip(Path("x.pt"), members_of({"w": tensor()}), kind=zipfile.ZIP_DEFLATED)
    refused("x.pt", "member `archive/data/0` is compressed")


@pytest.mark.parametrize("record", ["data/0", "data.pkl"])
def test_one_flipped_bit_is_noticed(refused, record):
    torch.save({"w": torch.arange(1000.0)}, "x.pt")
    with zipfile.ZipFile("x.pt") as archive:
        member = archive.getinfo(f"x/{record}")
    data = bytearray(Path("x.pt").read_bytes())
    _, _, name, extra = struct.unpack_from("<4s22sHH", data, member.header_offset)
    at = member.header_offset + 30 + name + extra
    data[at + (500 if record == "data/0" else data[at:].index(b"w"))] ^= 1
    Path("x.pt").write_bytes(data)
    refused("x.pt", "is damaged: its bytes have another checksum")


def test_weights_that_are_marked_as_a_folder_are_refused(refused):
    with zipfile.ZipFile("x.pt", "w") as archive:
        for name, content in members_of({"w": tensor()}).items():
            member = zipfile.ZipInfo(f"archive/{name}")
            member.external_attr = 0x10 if name == "data/0" else 0
            archive.writestr(member, content)
    refused("x.pt", "member `archive/data/0` is marked as a folder")


@pytest.mark.parametrize(("before", "after"), [(b"MZ" * 10, b""), (b"", b"more"), (b"\x80\x02N.", b"")])
def test_bytes_around_an_archive_are_refused(refused, before, after):
    torch.save({"w": torch.ones(2)}, "x.pt")
    Path("x.pt").write_bytes(before + Path("x.pt").read_bytes() + after)
    refused("x.pt", "`x.pt`")


@FORMS
def test_a_file_that_is_cut_off_anywhere_is_refused(refused, zipped):
    torch.save({"w": torch.arange(6.0), "b": torch.ones(2).half()}, "whole", _use_new_zipfile_serialization=zipped)
    data = Path("whole").read_bytes()
    for length in range(len(data)):
        Path("x.pt").write_bytes(data[:length])
        with pytest.raises(ReconError, match=r"x\.pt"):
            open_checkpoint(Path("x.pt"))
    Path("x.pt").write_bytes(data[: len(data) // 2])
    refused("x.pt", "`x.pt`")


STATE = {"w": tensor()}
OLD = {
    "another magic number": (legacy(STATE, magic=7), "not one that `torch.save` wrote"),
    "a magic number of another kind": (legacy(STATE, magic=[OrderedDict()]), "not one that `torch.save` wrote"),
    "another protocol": (legacy(STATE, protocol=1002), "of a form of torch files that is not known"),
    "no description of the system": (legacy(STATE, system=5), "of a form of torch files that is not known"),
    "a big-endian machine": (legacy(STATE, system={**SYSTEM, "little_endian": False}), "big-endian machine"),
    "a list of storages that is none": (legacy(STATE, keys={"0": 1}), "of a form of torch files that is not known"),
    "numbers for storages": (legacy(STATE, keys=[0]), "its list of storages makes no sense"),
    "a storage twice": (legacy(STATE, keys=["0", "0"]), "its list of storages makes no sense"),
    "a storage that nothing names": (legacy(STATE, {"0": bytes(16), "1": bytes(4)}), "storage `1` that nothing names"),
    "a storage that is missing": (legacy(STATE, {}), "its storage is not in the file"),
    "a storage of another length": (legacy(STATE, {"0": bytes(20)}), "storage `0` has 5 elements, but should have 4"),
    "a storage without end": (legacy(STATE)[:-24] + b"\xff" * 8 + bytes(16), "elements, but should have 4"),
    "more behind its end": (legacy(STATE) + b"x", "has 1 bytes behind its end"),
    "a program of a later torch": (legacy(STATE).replace(b"\x80\x02}", b"\x80\x09}", 1), "newer than any known"),
    "only a pickle": (pickle.dumps({"w": 1}, 2), "not one that `torch.save` wrote"),
}


@pytest.mark.parametrize("kind", OLD)
def test_files_of_the_older_form_that_lie(refused, kind):
    data, words = OLD[kind]
    Path("x.pt").write_bytes(data)
    refused("x.pt", "`x.pt`", words)


def test_views_that_unfold_a_file_many_times_are_refused(refused):
    size = 1 << 22
    views = {f"v{at}": tensor(Stored(count=size), at, (size - at,)) for at in range(300)}
    write({"w": tensor(Stored(count=size)), **views}, records={"0": bytes(4 * size)})
    refused("x.pt", "`x.pt` unfolds to")


NAMES = [
    "../../etc/passwd",
    "a\0b",
    "\x1b[31mred",
    "a\r\nb",
    "",
    ".",
    "..",
    "[bold]",
    "ünï.w",
    "n" * 100_000,
    "a b",
    "'",
]


@FORMS
def test_names_of_any_kind_are_kept_as_they_are(split, tmp_path, zipped):
    state = {f"{name}.weight": torch.full((2,), float(at)) for at, name in enumerate(NAMES)}
    state["w"] = torch.ones(3)
    torch.save(state, "x.pt", _use_new_zipfile_serialization=zipped)
    found = load_file(split("x.pt"))
    assert found.keys() == {*state.keys() - {"w"}} | {"w.a", "w.b"} or len(found) == len(state) + 1
    assert all(torch.equal(found[name], value) for name, value in state.items() if name != "w")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.manifest.json", "out.safetensors", "x.pt"]


@FORMS
@pytest.mark.parametrize("name", ["__metadata__", "half \ud83d", "\udcff"])
def test_names_that_the_output_cannot_hold_are_refused(refused, name, zipped):
    torch.save({"w": torch.ones(2), name: torch.ones(2)}, "x.pt", _use_new_zipfile_serialization=zipped)
    refused("x.pt", "has a name that safetensors cannot hold")


def test_of_two_tensors_of_one_name_the_last_is_taken_as_torch_takes_it(split):
    first, last = pickled({"w": tensor(Stored("0"))})[:-1], pickled(tensor(Stored("1")))[2:-1]
    write(first + b"X\1\0\0\0w" + last + b"s.", records={"0": bytes(16), "1": struct.pack("4f", 1, 2, 3, 4)})
    assert torch.load("x.pt")["w"].tolist() == [1, 2, 3, 4]
    found = load_file(split("x.pt"))
    assert [value.tolist() for value in found.values()] == [[1, 2, 3, 4]] * 2


def test_messages_about_long_names_are_short(refused):
    message = refused(write({"w": tensor(), "n" * 100_000: tensor(Stored("1"))}), "no member `data/1`")
    assert len(message) < 1000


def test_nothing_of_pythons_own_reading_is_used(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled or run")

    path = tmp_path / "x.pt"
    write_zip(path, members_of({"w": tensor(), "x": RUN}))
    for owner, name in ((pickle, "Unpickler"), (pickle, "loads"), (torch, "load"), (os, "system"), (builtins, "eval")):
        monkeypatch.setattr(owner, name, fail)
    with pytest.raises(ReconError, match=r"is a `posix\.system`"):
        open_checkpoint(path)
